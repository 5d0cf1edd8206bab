//! Where a configuration comes from, to be read again.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Config, ConfigErrors, Flags};

/// How the value of a variable is looked up.
type Lookup = dyn Fn(&str) -> Option<OsString> + Send + Sync;

/// The flags, the environment and the file that a configuration is made of. What they say can be
/// read again: flags and environment stay what they were, and go on overriding the file.
#[derive(Clone)]
pub struct ConfigSource {
    flags: Flags,
    env: Arc<Lookup>,
}

impl ConfigSource {
    /// These flags; `env` looks a variable up, as for [`Config::load`].
    pub fn new(
        flags: Flags,
        env: impl Fn(&str) -> Option<OsString> + Send + Sync + 'static,
    ) -> Self {
        let env = Arc::new(env);
        Self { flags, env }
    }

    /// What it says now.
    ///
    /// # Errors
    ///
    /// As [`Config::load`].
    pub fn load(&self) -> Result<Config, ConfigErrors> {
        Config::load(self.flags.clone(), |name| (self.env)(name))
    }

    /// The configuration file, where there is one: all that may say something else later.
    pub fn file(&self) -> Option<PathBuf> {
        self.flags.file(|name| (self.env)(name))
    }
}

impl fmt::Debug for ConfigSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigSource")
            .field("file", &self.file())
            .finish_non_exhaustive()
    }
}
