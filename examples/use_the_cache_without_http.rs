//! The cache alone: no server, no network. An upstream of your own is six methods; here it is the
//! scripted one that tests use, so that the calls it gets can be counted.

use std::error::Error;
use std::sync::Arc;

use futures::TryStreamExt as _;
use registry_core::testing::ScriptedUpstream;
use registry_core::{
    BlobPayload, Caller, MemoryStore, Origin, RegistryCache, Repository, Stores, UpstreamEntry,
    UpstreamId, Upstreams,
};

#[tokio::main]
#[expect(clippy::print_stdout, reason = "an example tells what it does")]
async fn main() -> Result<(), Box<dyn Error>> {
    let upstream = ScriptedUpstream::new();
    let repository = Repository::parse("library/app")?;
    let digest = upstream.add_blob(&repository, "the bytes of a layer");

    let id = UpstreamId::parse("registry.example")?;
    let mut upstreams = Upstreams::new();
    let entry = UpstreamEntry::new(Arc::clone(&upstream) as _);
    upstreams.insert(id.clone(), entry);
    let cache = RegistryCache::new(Stores::of(Arc::new(MemoryStore::new())), upstreams);

    let origin = Origin::new(id, repository);
    for _ in 0..2 {
        let served = cache
            .blob(&origin, digest, None, &Caller::Anonymous)
            .await?;
        if let BlobPayload::Stream(stream) = served.value.payload {
            let chunks: Vec<_> = stream.try_collect().await?;
            println!(
                "{:?}: {:?}",
                served.status,
                String::from_utf8(chunks.concat())?
            );
        }
    }
    println!("{:?}", upstream.calls());
    assert_eq!(upstream.calls().blob, 1, "the second pull asked nobody");
    Ok(())
}
