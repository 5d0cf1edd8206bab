//! Compression around an archive: gzip is taken off as the bytes arrive, others are told apart so
//! that people learn what to do.

use std::io::{self, Write as _};
use std::mem;

use bytes::{Bytes, BytesMut};
use flate2::write::MultiGzDecoder;
use futures::{StreamExt as _, stream};

use super::{ArchiveBytes, ArchiveError, COMPRESSED_CHUNK_BYTES};

/// How many bytes tell all of these apart.
const MAGIC_BYTES: usize = 6;

const GZIP: &[u8] = &[0x1f, 0x8b];
const OTHERS: [(&[u8], &str); 3] = [
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
    (b"BZh", "bzip2"),
];

/// The bytes of the tar, whatever it is compressed with.
pub(super) async fn unzipped(mut archive: ArchiveBytes) -> Result<ArchiveBytes, ArchiveError> {
    let mut begin = BytesMut::new();
    while begin.len() < MAGIC_BYTES {
        match archive.next().await {
            Some(chunk) => begin.extend_from_slice(&chunk?),
            None => break,
        }
    }
    if let Some((_, program)) = OTHERS.iter().find(|(magic, _)| begin.starts_with(magic)) {
        return Err(ArchiveError::malformed(format!(
            "it is compressed with {program}; decompress it first, as in `{program} -dc FILE | \
             registry-server import -`"
        )));
    }
    let is_zipped = begin.starts_with(GZIP);
    let archive = stream::iter([Ok(begin.freeze())]).chain(archive).boxed();
    Ok(if is_zipped {
        gunzipped(archive)
    } else {
        archive
    })
}

struct Unzipping {
    archive: ArchiveBytes,
    rest: Bytes,
    decoder: MultiGzDecoder<Vec<u8>>,
    is_over: bool,
}

fn gunzipped(archive: ArchiveBytes) -> ArchiveBytes {
    let unzipping = Unzipping {
        archive,
        rest: Bytes::new(),
        decoder: MultiGzDecoder::new(Vec::new()),
        is_over: false,
    };
    stream::try_unfold(unzipping, async |mut unzipping| {
        let chunk = unzipping.next().await?;
        Ok(chunk.map(|chunk| (chunk, unzipping)))
    })
    .boxed()
}

impl Unzipping {
    /// The next decompressed bytes, if there are any.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        while !self.is_over {
            if self.rest.is_empty() {
                match self.archive.next().await.transpose()? {
                    Some(chunk) => self.rest = chunk,
                    None => {
                        self.is_over = true;
                        self.decoder.try_finish()?;
                    }
                }
            }
            let len = self.rest.len().min(COMPRESSED_CHUNK_BYTES);
            self.decoder.write_all(&self.rest.split_to(len))?;
            let unzipped = mem::take(self.decoder.get_mut());
            if !unzipped.is_empty() {
                return Ok(Some(unzipped.into()));
            }
        }
        Ok(None)
    }
}
