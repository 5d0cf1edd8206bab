//! Where things are in a data folder, and how they are named. Paths are made of parsed digests and fixed names only, so
//! none can lead out of the folder.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use registry_core::{Algorithm, Digest};
use tempfile::NamedTempFile;

/// Partial files are named with this and something random; nothing else in their folder is ours
/// to sweep.
pub(crate) const PARTIAL_PREFIX: &str = "fill-";

/// What the name of the file that lists a manifest's origins ends with.
const ORIGINS_SUFFIX: &str = ".origins";

/// The folders that content is in, by what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Blob,
    Manifest,
}

#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(crate) fn format(&self) -> PathBuf {
        self.root.join("format")
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.root.join("index")
    }

    /// Whose presence tells that the index was found damaged while it was in use.
    pub(crate) fn index_suspect(&self) -> PathBuf {
        self.root.join("index.suspect")
    }

    pub(crate) fn partial(&self) -> PathBuf {
        self.root.join("partial")
    }

    /// A new file that is swept at the next start, unless it is given another place or dropped.
    pub(crate) fn new_partial(&self) -> io::Result<NamedTempFile> {
        tempfile::Builder::new()
            .prefix(PARTIAL_PREFIX)
            .tempfile_in(self.partial())
    }

    /// The folder of all content of a kind and an algorithm.
    pub(crate) fn shelf(&self, kind: Kind, algorithm: Algorithm) -> PathBuf {
        let kind = match kind {
            Kind::Blob => "blobs",
            Kind::Manifest => "manifests",
        };
        self.root.join(kind).join(algorithm.name())
    }

    /// The file of some content.
    pub(crate) fn content(&self, kind: Kind, digest: Digest) -> PathBuf {
        let encoded = digest.encoded();
        let shelf = self.shelf(kind, digest.algorithm());
        shelf.join(&encoded[..2]).join(encoded)
    }

    /// The file that lists the origins of a manifest, beside the manifest's.
    pub(crate) fn origins(&self, manifest: Digest) -> PathBuf {
        let mut path = self.content(Kind::Manifest, manifest).into_os_string();
        path.push(ORIGINS_SUFFIX);
        path.into()
    }

    /// Makes a folder for the file of some content, durably.
    pub(crate) fn make_place(&self, kind: Kind, digest: Digest) -> io::Result<()> {
        let file = self.content(kind, digest);
        let folders: Vec<&Path> = file.ancestors().skip(1).collect();
        // From the outermost that is missing on; the root is there.
        let inside = folders.iter().take_while(|folder| **folder != self.root);
        for folder in inside.collect::<Vec<_>>().into_iter().rev() {
            if !folder.is_dir() {
                make_folder(folder)?;
                sync_folder(folder.parent().unwrap_or(&self.root))?;
            }
        }
        Ok(())
    }
}

/// The digest whose file has this name.
pub(crate) fn digest_of_name(algorithm: Algorithm, name: &str) -> Option<Digest> {
    Digest::parse(&format!("{}:{name}", algorithm.name())).ok()
}

/// The manifest whose origins are listed in the file of this name.
pub(crate) fn manifest_of_origins(algorithm: Algorithm, name: &str) -> Option<Digest> {
    digest_of_name(algorithm, name.strip_suffix(ORIGINS_SUFFIX)?)
}

/// Makes a folder that only this user may enter, and those it is in; one that is there is fine.
pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// A result where absence is no error.
pub(crate) fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
