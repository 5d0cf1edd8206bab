//! What a client finds around it: a folder to work in, a mirror, and the configuration files of
//! `examples/config` with that mirror's address.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::example_files::ExampleFiles;
use crate::image::Content;
use crate::workshop::Workshop;

/// An image under its public name.
#[derive(Clone)]
pub(crate) struct Published {
    pub(crate) registry: String,
    pub(crate) repository: &'static str,
    pub(crate) tag: &'static str,
    pub(crate) content: Content,
}

impl Published {
    /// `quay.io/team/tool:1.0`
    pub(crate) fn name(&self) -> String {
        format!("{}/{}:{}", self.registry, self.repository, self.tag)
    }
}

/// A program that pulls images, with a storage of its own.
pub(crate) trait Client {
    /// Pulls an image that this client has never seen, and says what it got.
    fn pull(&self, site: &Site, published: &Published) -> Content;
}

/// See the module.
pub(crate) struct Site {
    pub(crate) examples: ExampleFiles,
    pub(crate) mirror: SocketAddr,
    /// A folder with the authority of the mirror's certificate, where it speaks TLS: `ca.crt`.
    pub(crate) certs: Option<PathBuf>,
    pub(crate) workshop: Workshop,
}

impl Site {
    /// The same workshop around another mirror; `name` is that of a folder for its configuration.
    #[track_caller]
    pub(crate) fn new(workshop: Workshop, mirror: SocketAddr, name: &str) -> Self {
        Self {
            examples: ExampleFiles::render(&workshop.create_folder(name), mirror),
            mirror,
            certs: None,
            workshop,
        }
    }

    /// Leads clients to the mirror by `https://`, as the README says.
    #[track_caller]
    pub(crate) fn secure(&mut self, certs: PathBuf) {
        self.examples.secure(self.mirror, &certs.join("ca.crt"));
        self.certs = Some(certs);
    }

    /// Pulls with `client` what was published, and panics where it got something else.
    #[track_caller]
    pub(crate) fn pull(&self, client: &dyn Client, published: &Published) {
        let content = client.pull(self, published);
        assert_eq!(content, published.content, "{}", published.name());
    }
}
