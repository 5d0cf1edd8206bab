//! Where things are in a data folder, and how they are named. Paths are made of parsed digests and fixed names only, so
//! none can lead out of the folder.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use registry_core::{Algorithm, Digest};
use rustix::fs::OFlags;
use tempfile::NamedTempFile;

/// What the names of files begin with that are of no use after a crash; something random follows.
const TEMPORARY_PREFIX: &str = "fill-";

/// What the name of the file ends with that tells how far an unfinished blob has come.
const CHECKPOINT_SUFFIX: &str = ".checkpoint";

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

    pub(crate) fn pins(&self) -> PathBuf {
        self.root.join("pins")
    }

    /// The folder of the marks of manifests that are not settled.
    pub(crate) fn unsettled(&self) -> PathBuf {
        self.root.join("unsettled")
    }

    /// The mark of one manifest.
    pub(crate) fn mark(&self, manifest: Digest) -> PathBuf {
        let (algorithm, encoded) = (manifest.algorithm().name(), manifest.encoded());
        self.unsettled().join(format!("{algorithm}-{encoded}"))
    }

    /// A new file that is swept at the next start, unless it is given another place or dropped.
    pub(crate) fn new_temporary(&self) -> io::Result<NamedTempFile> {
        tempfile::Builder::new()
            .prefix(TEMPORARY_PREFIX)
            .tempfile_in(self.partial())
    }

    /// A new file for the content of a blob, which a later start can find by its digest.
    pub(crate) fn new_partial(&self, digest: Digest) -> io::Result<(File, PathBuf)> {
        let prefix = format!("{}-{}.", digest.algorithm().name(), digest.encoded());
        let file = tempfile::Builder::new()
            .prefix(&prefix)
            .tempfile_in(self.partial())?;
        file.keep().map_err(|failed| failed.error)
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

/// The file that tells how far an unfinished blob has come, beside the blob's.
pub(crate) fn checkpoint_of(partial: &Path) -> PathBuf {
    let mut path = partial.to_owned().into_os_string();
    path.push(CHECKPOINT_SUFFIX);
    path.into()
}

/// What a file in the folder of partial ones is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PartialName {
    /// The content of a blob that is being written.
    Content(Digest),
    /// How far one has come.
    Checkpoint,
    /// Ours, and of no use to anybody.
    Temporary,
    /// Not ours.
    Foreign,
}

impl PartialName {
    pub(crate) fn of(name: &str) -> Self {
        if name.starts_with(TEMPORARY_PREFIX) {
            return Self::Temporary;
        }
        let algorithm = Algorithm::ALL.iter().copied().find_map(|algorithm| {
            let rest = name.strip_prefix(algorithm.name())?;
            Some((algorithm, rest.strip_prefix('-')?))
        });
        let Some((algorithm, rest)) = algorithm else {
            return Self::Foreign;
        };
        let (digest, rest) = rest.split_once('.').unwrap_or((rest, ""));
        match digest_of_name(algorithm, digest) {
            Some(_) if rest.ends_with(CHECKPOINT_SUFFIX) => Self::Checkpoint,
            Some(digest) if !rest.is_empty() && !rest.contains('.') => Self::Content(digest),
            _ => Self::Temporary,
        }
    }
}

/// The manifest whose mark has this name.
pub(crate) fn manifest_of_mark(name: &str) -> Option<Digest> {
    Digest::parse(&name.replacen('-', ":", 1)).ok()
}

/// The digest whose file has this name.
pub(crate) fn digest_of_name(algorithm: Algorithm, name: &str) -> Option<Digest> {
    Digest::parse(&format!("{}:{name}", algorithm.name())).ok()
}

/// The manifest whose origins are listed in the file of this name.
pub(crate) fn manifest_of_origins(algorithm: Algorithm, name: &str) -> Option<Digest> {
    digest_of_name(algorithm, name.strip_suffix(ORIGINS_SUFFIX)?)
}

/// What has the place of some content.
#[derive(Debug)]
pub(crate) enum Entry {
    /// A file, and its size.
    File(File, u64),
    /// Something that nobody here has put there.
    Other,
}

/// Opens the file of some content; `None` where there is nothing. Follows no link, and waits for
/// nobody who might write to a pipe.
pub(crate) fn open_content(path: &Path) -> io::Result<Option<Entry>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).expect("they are those of open(2)");
    match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => {
            let meta = file.metadata()?;
            Ok(Some(if meta.is_file() {
                Entry::File(file, meta.len())
            } else {
                Entry::Other
            }))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // A link, or a socket.
        Err(error) => match found(fs::symlink_metadata(path))? {
            Some(meta) if !meta.is_file() => Ok(Some(Entry::Other)),
            _ => Err(error),
        },
    }
}

/// Removes whatever has the place of some content; whether there was anything.
pub(crate) fn remove_content(path: &Path) -> io::Result<bool> {
    match found(fs::symlink_metadata(path))? {
        None => Ok(false),
        Some(meta) if meta.is_dir() => fs::remove_dir_all(path).map(|()| true),
        Some(_) => Ok(found(fs::remove_file(path))?.is_some()),
    }
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

#[cfg(test)]
mod tests {
    use registry_core::{Algorithm, Hasher};

    use super::*;

    #[test]
    fn partial_files_are_known_by_their_names() {
        for &algorithm in Algorithm::ALL {
            let digest = Hasher::digest_of(algorithm, b"x");
            let name = format!("{}-{}", algorithm.name(), digest.encoded());
            for (name, expected) in [
                (format!("{name}.aB3xYz"), PartialName::Content(digest)),
                (format!("{name}.aB3xYz.checkpoint"), PartialName::Checkpoint),
                (format!("{name}.aB3xYz.other"), PartialName::Temporary),
                (format!("{name}."), PartialName::Temporary),
                (name.clone(), PartialName::Temporary),
                (name.to_uppercase(), PartialName::Foreign),
                (format!("{}.aB3xYz", &name[..20]), PartialName::Temporary),
                (format!("{}-", algorithm.name()), PartialName::Temporary),
                (algorithm.name().to_owned(), PartialName::Foreign),
                ("fill-aB3xYz".to_owned(), PartialName::Temporary),
                ("mine".to_owned(), PartialName::Foreign),
                (String::new(), PartialName::Foreign),
            ] {
                assert_eq!(PartialName::of(&name), expected, "{name:?}");
            }
        }
    }

    #[test]
    fn a_new_partial_file_is_found_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().to_owned());
        make_folder(&layout.partial()).unwrap();
        for &algorithm in Algorithm::ALL {
            let digest = Hasher::digest_of(algorithm, b"x");
            let (_, path) = layout.new_partial(digest).unwrap();
            let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
            assert_eq!(PartialName::of(&name(&path)), PartialName::Content(digest));
            let checkpoint = checkpoint_of(&path);
            assert_eq!(PartialName::of(&name(&checkpoint)), PartialName::Checkpoint);
        }
    }
}
