//! What all rows share: the origin, the programs, folders, and how much is measured.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::Outcome;
use crate::client::Client;
use crate::options::{Options, Scale};
use crate::origin::{Blob, Manifest, Origin};
use crate::peer::{Peer, Program, Settings};
use crate::programs::{NOT_INSTALLED, Programs};
use crate::row::Series;

/// Where everything is put that is measured: on the disk that the project is on, as folders for
/// temporary files are in memory on some machines.
pub(crate) const PLACE: &str = env!("CARGO_TARGET_TMPDIR");

/// All that measuring needs.
pub(crate) struct Bench {
    pub(crate) scale: Scale,
    pub(crate) origin: Origin,
    pub(crate) programs: Programs,
    pub(crate) folder: TempDir,
    /// What nginx serves.
    pub(crate) www: PathBuf,
}

impl Bench {
    pub(crate) fn new(options: &Options) -> Outcome<Self> {
        fs::create_dir_all(PLACE)?;
        let folder = tempfile::Builder::new()
            .prefix("compare-")
            .tempdir_in(PLACE)?;
        let www = folder.path().join("www");
        fs::create_dir(&www)?;
        Ok(Self {
            scale: options.scale(),
            origin: Origin::start()?,
            programs: Programs::find(options)?,
            folder,
            www,
        })
    }

    /// Straight at the origin, without TLS and without a log of requests.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            upstream: self.origin.url(),
            logs_requests: false,
            tls: None,
            data: None,
        }
    }

    /// All three, as far as they are installed.
    pub(crate) fn contest(&self, settings: &Settings) -> Outcome<Vec<Contestant>> {
        let start = |program: Program| {
            let peer = Peer::start(self, program, settings)?;
            Ok(Contestant { program, peer })
        };
        Program::ALL.into_iter().map(start).collect()
    }

    /// For the numbers of a program, if it is installed.
    pub(crate) fn series(&self, program: Program) -> Series {
        match self.programs.path(program) {
            Some(_) => Series::new(program.name()),
            None => Series::absent(program.name(), NOT_INSTALLED),
        }
    }

    /// Lets nginx have a blob: the very bytes that the others pull.
    pub(crate) fn publish_blob(&self, blob: &Blob) -> Outcome<()> {
        self.publish(&blob.path(), blob.size)
    }

    /// And a manifest.
    pub(crate) fn publish_manifest(&self, manifest: &Manifest) -> Outcome<()> {
        self.publish(&manifest.path(), manifest.size)
    }

    fn publish(&self, path: &str, size: u64) -> Outcome<()> {
        let file = self.www.join(path.trim_start_matches('/'));
        fs::create_dir_all(file.parent().ok_or("a file is in a folder")?)?;
        let mut file = File::create(file)?;
        let mut client = Client::connect(self.origin.address())?;
        client.get_into(path, size, |bytes| Ok(file.write_all(bytes)?))?;
        Ok(())
    }

    /// Forgets what was published.
    pub(crate) fn unpublish(&self) -> Outcome<()> {
        fs::remove_dir_all(&self.www)?;
        Ok(fs::create_dir(&self.www)?)
    }
}

/// One who takes part, or would if it were installed.
pub(crate) struct Contestant {
    pub(crate) program: Program,
    pub(crate) peer: Option<Peer>,
}

/// The series of the mirror, nginx and the registry, in this order.
pub(crate) fn in_order(series: Vec<Series>) -> Outcome<[Series; 3]> {
    series
        .try_into()
        .map_err(|_| "there are three of them".into())
}
