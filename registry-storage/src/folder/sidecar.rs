//! The origins that a manifest is linked in, in a file beside the manifest's: what a rebuild makes
//! links of (I10). It knows the form of that file, and nothing of rows.
//!
//! One line an origin: upstream, repository, and a proof that the line is whole and speaks of this
//! manifest. For a line grants access (I5), and of one that was torn or damaged, or whose file was
//! given another name, something may be left that reads like another origin.
//!
//! Lines are appended without a sync: losing the last of them costs a HEAD. They are taken back
//! durably: a link that was removed must not come back. All of it in the turn of the manifest.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use registry_core::{Algorithm, Digest, Hasher, Origin, Repository, UpstreamId};

use crate::layout::{Entry, Layout, open_content, remove_content, sync_folder};
use crate::options::SIDECAR_BYTES_MAX;

/// The file of one manifest, as it was when it was read.
pub(super) struct Sidecar {
    digest: Digest,
    path: PathBuf,
    /// Nothing where there is no file; of one that is too large, its beginning.
    text: Vec<u8>,
}

impl Sidecar {
    pub(super) fn read(layout: &Layout, digest: Digest) -> io::Result<Self> {
        let path = layout.origins(digest);
        let mut text = Vec::new();
        match open_content(&path)? {
            None => {}
            Some(Entry::File(file, _)) => {
                file.take(SIDECAR_BYTES_MAX).read_to_end(&mut text)?;
            }
            Some(Entry::Other) => return Err(io::ErrorKind::IsADirectory.into()),
        }
        Ok(Self { digest, path, text })
    }

    /// The origins of its lines; what is no line of this manifest's is skipped.
    pub(super) fn origins(&self) -> Vec<Origin> {
        let lines = self
            .lines()
            .filter_map(|line| std::str::from_utf8(line).ok());
        lines.filter_map(|line| parse(self.digest, line)).collect()
    }

    pub(super) fn lists(&self, origin: &Origin) -> bool {
        let wanted = line(self.digest, origin);
        self.lines().any(|line| line == wanted.as_bytes())
    }

    fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.text.split(|&byte| byte == b'\n')
    }

    /// Adds a line; whether there was room for it.
    pub(super) fn append(&self, origin: &Origin) -> io::Result<bool> {
        let mut added = line(self.digest, origin);
        added.push('\n');
        if self.text.last().is_some_and(|&last| last != b'\n') {
            // Torn: what is added must not go on with it.
            added.insert(0, '\n');
        }
        if (self.text.len() + added.len()) as u64 > SIDECAR_BYTES_MAX {
            return Ok(false);
        }
        let mut options = OpenOptions::new();
        let mut file = options
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.path)?;
        file.write_all(added.as_bytes())?;
        Ok(true)
    }

    /// Takes a line back, durably, and whatever is no line; whether there was one.
    pub(super) fn withdraw(&self, layout: &Layout, origin: &Origin) -> io::Result<bool> {
        if !self.lists(origin) {
            return Ok(false);
        }
        let mut left = self.origins();
        left.retain(|listed| listed != origin);
        if left.is_empty() {
            fs::remove_file(&self.path)?;
        } else {
            let mut file = layout.new_temporary()?;
            for origin in &left {
                writeln!(file, "{}", line(self.digest, origin))?;
            }
            file.as_file().sync_all()?;
            file.persist(&self.path)?;
        }
        sync_folder(self.path.parent().unwrap_or(layout.root()))?;
        Ok(true)
    }
}

/// Removes a manifest's file of origins; whether there was one.
pub(super) fn remove(path: &Path) -> io::Result<bool> {
    remove_content(path)
}

fn line(digest: Digest, origin: &Origin) -> String {
    let text = format!("{} {}", origin.upstream(), origin.repository());
    let proof = Hasher::digest_of(Algorithm::Sha256, format!("{digest} {text}").as_bytes());
    format!("{text} {proof}")
}

fn parse(digest: Digest, text: &str) -> Option<Origin> {
    let mut parts = text.split(' ');
    let upstream = UpstreamId::parse(parts.next()?).ok()?;
    let repository = Repository::parse(parts.next()?).ok()?;
    let origin = Origin::new(upstream, repository);
    (line(digest, &origin) == text).then_some(origin)
}

#[cfg(test)]
mod tests {
    use registry_core::testing::content::digest_of;
    use tempfile::TempDir;

    use super::*;

    fn origin(upstream: &str, repository: &str) -> Origin {
        Origin::new(
            UpstreamId::parse(upstream).unwrap(),
            Repository::parse(repository).unwrap(),
        )
    }

    /// A folder with room for the sidecar of one manifest.
    fn folder() -> (TempDir, Layout, Digest) {
        let dir = TempDir::new().unwrap();
        let (layout, digest) = (Layout::new(dir.path().to_owned()), digest_of(b"manifest"));
        fs::create_dir_all(layout.origins(digest).parent().unwrap()).unwrap();
        fs::create_dir(layout.partial()).unwrap();
        (dir, layout, digest)
    }

    fn origins(layout: &Layout, digest: Digest) -> Vec<Origin> {
        Sidecar::read(layout, digest).unwrap().origins()
    }

    fn append(layout: &Layout, digest: Digest, origin: &Origin) -> bool {
        let sidecar = Sidecar::read(layout, digest).unwrap();
        sidecar.append(origin).unwrap()
    }

    #[test]
    fn what_was_appended_is_listed_until_it_is_withdrawn() {
        let (_dir, layout, digest) = folder();
        let all = ["a", "a/b", "b"].map(|repository| origin("x:5000", repository));
        for origin in &all {
            assert!(append(&layout, digest, origin));
        }
        assert_eq!(origins(&layout, digest), all);
        for (n, origin) in all.iter().enumerate() {
            let sidecar = Sidecar::read(&layout, digest).unwrap();
            assert!(sidecar.lists(origin));
            assert!(sidecar.withdraw(&layout, origin).unwrap());
            assert_eq!(origins(&layout, digest), all[n + 1..]);
            let sidecar = Sidecar::read(&layout, digest).unwrap();
            assert!(!sidecar.withdraw(&layout, origin).unwrap());
        }
        assert!(!layout.origins(digest).exists(), "an empty one is removed");
    }

    /// Cut anywhere, and with another line appended then, it lists no origin that was not given.
    #[test]
    fn a_torn_line_is_none_and_spoils_no_other() {
        let (_dir, layout, digest) = folder();
        let (first, torn, next) = (origin("x", "a"), origin("x.y", "ab"), origin("z", "c"));
        let whole = [&first, &torn]
            .map(|origin| line(digest, origin))
            .join("\n");
        let start = line(digest, &first).len() + 1;
        for cut in start..whole.len() {
            fs::write(layout.origins(digest), &whole[..cut]).unwrap();
            assert_eq!(
                origins(&layout, digest),
                std::slice::from_ref(&first),
                "{cut}"
            );
            assert!(append(&layout, digest, &next));
            assert_eq!(
                origins(&layout, digest),
                [first.clone(), next.clone()],
                "{cut}"
            );
        }
        // Whole but for its end, it is one.
        fs::write(layout.origins(digest), &whole).unwrap();
        assert!(append(&layout, digest, &next));
        assert_eq!(origins(&layout, digest), [first, torn, next]);
    }

    #[test]
    fn damaged_and_foreign_lines_are_skipped() {
        let (_dir, layout, digest) = folder();
        let (mine, other) = (origin("x", "a"), digest_of(b"another manifest"));
        let line_of_mine = line(digest, &mine);
        for bad in [
            String::new(),
            "x a".to_owned(),
            "x b sha256:00".to_owned(),
            line_of_mine.replacen('a', "b", 1),
            line_of_mine.replacen('x', "y", 1),
            line_of_mine.to_uppercase(),
            format!("{line_of_mine} "),
            format!("{line_of_mine}\r"),
            line(other, &mine),
            "\0".repeat(100),
            "\u{fffd}".to_owned(),
        ] {
            fs::write(layout.origins(digest), format!("{bad}\n{line_of_mine}\n")).unwrap();
            assert_eq!(
                origins(&layout, digest),
                std::slice::from_ref(&mine),
                "{bad:?}"
            );
        }
        let bits = line_of_mine.as_bytes();
        for flipped in 0..bits.len() * 8 {
            let mut bytes = bits.to_vec();
            bytes[flipped / 8] ^= 1 << (flipped % 8);
            fs::write(layout.origins(digest), &bytes).unwrap();
            assert_eq!(origins(&layout, digest), [], "{flipped}");
        }
    }

    #[test]
    fn it_stops_growing() {
        let (_dir, layout, digest) = folder();
        let long = |n: u32| {
            origin(
                "x",
                &format!("{}/{n:03}", ["a".repeat(120), "b".repeat(120)].join("/")),
            )
        };
        let fits = (0..)
            .take_while(|n| append(&layout, digest, &long(*n)))
            .count();
        assert!(fits > 100, "{fits}");
        let size = fs::metadata(layout.origins(digest)).unwrap().len();
        assert!(size <= SIDECAR_BYTES_MAX && size > SIDECAR_BYTES_MAX - 1_000);
        assert_eq!(origins(&layout, digest).len(), fits);
        // One that something else made larger is read no further.
        let mut file = OpenOptions::new()
            .append(true)
            .open(layout.origins(digest))
            .unwrap();
        for n in 0..100 {
            writeln!(file, "{}", line(digest, &long(500 + n))).unwrap();
        }
        assert!(origins(&layout, digest).len() - fits < 4);
    }
}
