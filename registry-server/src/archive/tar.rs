//! tar, as a stream in both directions (POSIX `pax`, GNU's long names). The records are those of the
//! crate `tar`; what follows one upon the other is written here, since that crate blocks a thread
//! for each archive, and reads what says more about an entry whatever its length.

use std::io;
use std::mem;

use ::tar::{Builder, EntryType, Header, PaxExtensions};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;

use super::{
    ArchiveBytes, ArchiveError, PATH_BYTES_MAX, TAR_ENTRIES_MAX, TAR_RECORD_BYTES_MAX,
    TAR_TRAILER_BYTES_MAX,
};

const BLOCK: usize = 512;
/// What fills up the last block of an entry.
const ZEROS: [u8; BLOCK] = [0; BLOCK];
/// Two empty blocks.
pub(super) const END: &[u8] = &[0; 2 * BLOCK];

/// Permissions of every file that is written.
const FILE_MODE: u32 = 0o644;

/// What stands before the bytes of a file; the same for every machine, user and time.
pub(super) fn head(path: &str, size: u64) -> Bytes {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(FILE_MODE);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    if header.size().ok() != Some(size) || header.set_path(path).is_err() {
        // A file of 8 GiB, or the name of a SHA-512, is beyond the first standard.
        header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(FILE_MODE);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
    }
    let mut builder = Builder::new(Vec::new());
    let appended = builder.append_data(&mut header, path, io::empty());
    appended.expect("writing to memory cannot fail, and paths of a layout are short");
    // Without what `into_inner` adds: the end of the archive.
    mem::take(builder.get_mut()).into()
}

/// What stands behind the bytes of a file.
pub(super) fn padding(size: u64) -> &'static [u8] {
    let over = usize::try_from(size % BLOCK as u64).expect("less than a block");
    &ZEROS[..(BLOCK - over) % BLOCK]
}

/// A file or folder of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its path: relative, without `.` and `..`.
    pub(super) path: String,
    /// How many bytes it has; those of a folder are none.
    pub(super) size: u64,
    pub(super) is_file: bool,
}

/// An archive being read.
pub(super) struct TarReader {
    source: Source,
    entries: u64,
    /// Bytes of the entry that are not read yet.
    left: u64,
    /// Bytes that fill up its last block.
    padding: usize,
}

/// What records before an entry said about it.
#[derive(Default)]
struct Said {
    path: Option<Vec<u8>>,
    size: Option<u64>,
}

impl TarReader {
    pub(super) fn new(stream: ArchiveBytes) -> Self {
        Self {
            source: Source {
                stream,
                buffer: Bytes::new(),
            },
            entries: 0,
            left: 0,
            padding: 0,
        }
    }

    /// The next entry; none at the end of the archive. What was not read of the one before is passed
    /// over.
    pub(super) async fn next(&mut self) -> Result<Option<Entry>, ArchiveError> {
        while self.chunk().await?.is_some() {}
        let mut said = Said::default();
        loop {
            let block = self.source.exactly(BLOCK).await?;
            if block.iter().all(|byte| *byte == 0) {
                self.source.pass_over_trailer().await?;
                return Ok(None);
            }
            let header = Header::from_byte_slice(&block);
            check_sum(header)?;
            self.entries += 1;
            if self.entries > TAR_ENTRIES_MAX {
                let what = format!("it has more than {TAR_ENTRIES_MAX} entries");
                return Err(ArchiveError::Malformed(what));
            }
            let size = header.entry_size();
            let size = size.map_err(|_| ArchiveError::malformed("an entry has no size"))?;
            match header.entry_type() {
                EntryType::XHeader => said.read_pax(&self.record(size).await?)?,
                EntryType::GNULongName => {
                    let name = self.record(size).await?;
                    let end = name.iter().position(|byte| *byte == 0);
                    said.path = Some(name[..end.unwrap_or(name.len())].to_vec());
                }
                EntryType::XGlobalHeader | EntryType::GNULongLink => {
                    self.record(size).await?;
                }
                kind => return self.begin(header, kind, said, size).map(Some),
            }
        }
    }

    fn begin(
        &mut self,
        header: &Header,
        kind: EntryType,
        said: Said,
        size: u64,
    ) -> Result<Entry, ArchiveError> {
        let bytes = match &said.path {
            Some(path) => path.clone(),
            None => header.path_bytes().into_owned(),
        };
        let is_folder = kind.is_dir() || bytes.ends_with(b"/");
        let path = checked_path(&bytes)?;
        let is_file = kind.is_file() && !is_folder;
        if !is_file && !is_folder {
            let what = match kind {
                EntryType::Symlink | EntryType::Link => "a link",
                _ => "neither a file nor a folder",
            };
            let what = format!("{path} is {what}, which an image layout has no use for");
            return Err(ArchiveError::Malformed(what));
        }
        let size = said.size.unwrap_or(size);
        if is_folder && size != 0 {
            let what = format!("the folder {path} has content");
            return Err(ArchiveError::Malformed(what));
        }
        self.left = size;
        self.padding = padding(size).len();
        Ok(Entry {
            path,
            size,
            is_file,
        })
    }

    /// The next bytes of the entry; none at its end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, ArchiveError> {
        if self.left == 0 {
            let padding = mem::take(&mut self.padding);
            self.source.exactly(padding).await?;
            return Ok(None);
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let chunk = self.source.some(most).await?;
        self.left -= chunk.len() as u64;
        Ok(Some(chunk))
    }

    /// All of an entry that has at most `limit` bytes.
    pub(super) async fn whole(&mut self, limit: u64) -> Result<Bytes, ArchiveError> {
        if self.left > limit {
            let (has, limit) = (self.left, limit);
            let what = format!("a file of {has} bytes stands where {limit} are the most");
            return Err(ArchiveError::Malformed(what));
        }
        let mut bytes = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }

    /// The content of a record about the next entry.
    async fn record(&mut self, size: u64) -> Result<Bytes, ArchiveError> {
        self.left = size;
        self.padding = padding(size).len();
        self.whole(TAR_RECORD_BYTES_MAX).await
    }
}

impl Said {
    fn read_pax(&mut self, record: &[u8]) -> Result<(), ArchiveError> {
        let broken = || ArchiveError::malformed("a record of it says nothing that can be read");
        for extension in PaxExtensions::new(record) {
            let extension = extension.map_err(|_| broken())?;
            match extension.key_bytes() {
                b"path" => self.path = Some(extension.value_bytes().to_vec()),
                b"size" => {
                    let size = extension.value().ok().and_then(|text| text.parse().ok());
                    self.size = Some(size.ok_or_else(broken)?);
                }
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(ArchiveError::malformed("it has files with holes"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The sum of a header's bytes, its own place read as spaces.
fn check_sum(header: &Header) -> Result<(), ArchiveError> {
    const SUM: std::ops::Range<usize> = 148..156;
    let bytes = header.as_bytes().iter().enumerate();
    let sum = bytes.map(|(at, byte)| match SUM.contains(&at) {
        true => u32::from(b' '),
        false => u32::from(*byte),
    });
    match header.cksum() {
        Ok(told) if told == sum.sum::<u32>() => Ok(()),
        _ => Err(ArchiveError::malformed(
            "it is no tar, or is damaged: a header does not match its checksum",
        )),
    }
}

/// A path that leads nowhere else, in the one form that is compared.
fn checked_path(bytes: &[u8]) -> Result<String, ArchiveError> {
    let refuse = || {
        let path = String::from_utf8_lossy(&bytes[..bytes.len().min(PATH_BYTES_MAX)]);
        ArchiveError::malformed(format!("the path {path:?} is not one of a layout"))
    };
    let path = std::str::from_utf8(bytes).map_err(|_| refuse())?;
    if path.len() > PATH_BYTES_MAX || path.starts_with('/') || path.contains(['\0', '\\']) {
        return Err(refuse());
    }
    let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
    let parts: Vec<&str> = parts.collect();
    if parts.contains(&"..") {
        return Err(refuse());
    }
    Ok(parts.join("/"))
}

/// The bytes of a tar.
struct Source {
    stream: ArchiveBytes,
    buffer: Bytes,
}

impl Source {
    /// Whether there are bytes in the buffer; none are left where there are not.
    async fn fill(&mut self) -> Result<bool, ArchiveError> {
        while self.buffer.is_empty() {
            match self.stream.next().await {
                Some(chunk) => self.buffer = chunk?,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// One to `most` bytes.
    async fn some(&mut self, most: usize) -> Result<Bytes, ArchiveError> {
        if !self.fill().await? {
            return Err(ArchiveError::Truncated);
        }
        Ok(self.buffer.split_to(most.min(self.buffer.len())))
    }

    async fn exactly(&mut self, len: usize) -> Result<Bytes, ArchiveError> {
        if len == 0 {
            return Ok(Bytes::new());
        }
        let first = self.some(len).await?;
        if first.len() == len {
            return Ok(first);
        }
        let mut bytes = BytesMut::with_capacity(len);
        bytes.extend_from_slice(&first);
        while bytes.len() < len {
            let more = self.some(len - bytes.len()).await?;
            bytes.extend_from_slice(&more);
        }
        Ok(bytes.freeze())
    }

    /// Reads on to the end of the stream, where nothing more may stand.
    async fn pass_over_trailer(&mut self) -> Result<(), ArchiveError> {
        // The second of the two blocks that end an archive.
        self.exactly(BLOCK).await?;
        let mut passed = 0;
        while self.fill().await? {
            passed += self.buffer.len() as u64;
            if passed > TAR_TRAILER_BYTES_MAX || self.buffer.iter().any(|byte| *byte != 0) {
                return Err(ArchiveError::malformed("something stands behind its end"));
            }
            self.buffer.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    async fn read(archive: Vec<u8>) -> Vec<Entry> {
        let pieces: Vec<_> = archive.chunks(700).map(Bytes::copy_from_slice).collect();
        let mut reader = TarReader::new(stream::iter(pieces.into_iter().map(Ok)).boxed());
        let mut entries = Vec::new();
        while let Some(entry) = reader.next().await.unwrap() {
            entries.push(entry);
        }
        entries
    }

    #[tokio::test]
    async fn what_is_written_is_read() {
        let sha512 = format!("blobs/sha512/{}", "a".repeat(128));
        for (path, size) in [
            ("oci-layout", 0),
            ("index.json", 511),
            (&sha512, 512),
            (&sha512, 513),
        ] {
            let content = vec![7; size];
            let size = size as u64;
            let archive = [&head(path, size), &content[..], padding(size), END].concat();
            let written = Entry {
                path: path.to_owned(),
                size,
                is_file: true,
            };
            assert_eq!(read(archive).await, [written]);
        }
    }

    /// Eight gibibytes are more than the first standard can tell.
    #[tokio::test]
    async fn a_large_file_has_its_size() {
        let size = 8 << 30;
        let head = head("blobs/sha256/x", size);
        let mut reader = TarReader::new(stream::iter([Ok(head)]).boxed());
        assert_eq!(reader.next().await.unwrap().unwrap().size, size);
    }
}
