//! Mirrors with stores in memory, and archives in memory between them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use registry_core::cache::{ExportError, ExportRequest, PlatformChoice};
use registry_core::testing::{FaultingStore, ManualClock};
use registry_core::{
    Digest, InventoryStore as _, MemoryStore, Origin, Progress, Reference, Repository, Stores, Tag,
    Timestamp, UpstreamId,
};
use registry_server::Mirror;
use registry_server::api::ImportReport;
use registry_server::archive::{
    ArchiveBytes, ArchiveError, ExportedArchive, export_archive, import_archive,
};

/// The name under which tests know the fixture registry.
pub(crate) const UPSTREAM: &str = "origin.example";
/// The repository that tests use.
pub(crate) const REPOSITORY: &str = "library/app";
/// Nothing listens at the discard port.
pub(crate) const NOWHERE: &str = "http://127.0.0.1:9";

/// When everything happens, unless a test moves the clock.
const NOW: u64 = 1_700_000_000_000;

/// A mirror, and what it keeps.
pub(crate) struct Held {
    pub(crate) mirror: Mirror,
    pub(crate) store: Arc<FaultingStore<MemoryStore>>,
    pub(crate) clock: Arc<ManualClock>,
}

impl Held {
    pub(crate) async fn of(url: &str) -> Self {
        let store = Arc::new(FaultingStore::new(MemoryStore::new()));
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(NOW)));
        let stores = Stores::of(Arc::clone(&store)).kept_by(Arc::clone(&store));
        let mirror = Mirror::builder()
            .stores(stores)
            .clock(Arc::clone(&clock) as _)
            .without_known_upstreams()
            .upstream(UPSTREAM, url)
            .admin_listen("127.0.0.1:0")
            .default_upstream(UPSTREAM)
            .start()
            .await
            .unwrap();
        Self {
            mirror,
            store,
            clock,
        }
    }

    /// One that reaches nobody.
    pub(crate) async fn offline() -> Self {
        Self::of(NOWHERE).await
    }

    pub(crate) async fn begin_export(
        &self,
        request: &ExportRequest,
    ) -> Result<ExportedArchive, ExportError> {
        export_archive(self.mirror.cache(), request, &Progress::new()).await
    }

    /// An archive, read to its end.
    pub(crate) async fn export(&self, request: &ExportRequest) -> Vec<u8> {
        let archive = self.begin_export(request).await.unwrap();
        let bytes: Vec<Bytes> = archive.bytes.try_collect().await.unwrap();
        let bytes = bytes.concat();
        assert_eq!(bytes.len() as u64, archive.length, "its length was told");
        bytes
    }

    pub(crate) async fn import(&self, archive: &[u8]) -> Result<ImportReport, ArchiveError> {
        self.import_bytes(in_pieces(archive)).await
    }

    pub(crate) async fn import_bytes(
        &self,
        archive: ArchiveBytes,
    ) -> Result<ImportReport, ArchiveError> {
        import_archive(self.mirror.cache(), archive, None, &Progress::new()).await
    }

    /// Waits until nothing is kept, which what an import leaves behind comes to by itself.
    pub(crate) async fn await_empty(&self) {
        let empty = async {
            loop {
                let usage = self.store.inner().usage().await.unwrap();
                if (usage.blobs, usage.manifests, usage.unfinished_bytes) == (0, 0, 0) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), empty).await;
        waited.expect("what no image needs is removed");
    }
}

/// The bytes of an archive in pieces that fit nothing.
pub(crate) fn in_pieces(archive: &[u8]) -> ArchiveBytes {
    let pieces: Vec<_> = archive.chunks(1_000).map(Bytes::copy_from_slice).collect();
    stream::iter(pieces.into_iter().map(Ok)).boxed()
}

/// The same, until the connection breaks.
pub(crate) fn broken_off(archive: &[u8]) -> ArchiveBytes {
    let broken = stream::iter([Err(io::ErrorKind::ConnectionReset.into())]);
    in_pieces(archive).chain(broken).boxed()
}

pub(crate) fn origin() -> Origin {
    Origin::new(
        UpstreamId::parse(UPSTREAM).unwrap(),
        Repository::parse(REPOSITORY).unwrap(),
    )
}

pub(crate) fn tag(tag: &str) -> Reference {
    Reference::Tag(Tag::parse(tag).unwrap())
}

/// All of one image.
pub(crate) fn everything(reference: &str) -> ExportRequest {
    ExportRequest {
        images: vec![(origin(), tag(reference))],
        platforms: PlatformChoice::All,
        attached: true,
        held_only: false,
    }
}

/// The tag that something attached to a manifest stands under.
pub(crate) fn attached_tag(subject: Digest, suffix: &str) -> String {
    format!("{}{suffix}", subject.to_string().replace(':', "-"))
}

/// A file of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) bytes: Vec<u8>,
}

impl File {
    pub(crate) fn new(path: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            path: path.into(),
            bytes: bytes.into(),
        }
    }
}

/// What another program finds in an archive.
pub(crate) fn files_of(archive: &[u8]) -> Vec<File> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        File { path, bytes }
    });
    entries.collect()
}

/// What another program writes.
pub(crate) fn archive_of(files: &[File]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for file in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(file.bytes.len() as u64);
        header.set_mode(0o600);
        archive
            .append_data(&mut header, &file.path, &*file.bytes)
            .unwrap();
    }
    archive.into_inner().unwrap()
}
