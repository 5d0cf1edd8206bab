//! A plan of the cache as a tar: first the index, so that who reads it knows from the first bytes
//! what is to come, then manifests, then blobs. Everything is told before the first byte, its length
//! too: what breaks off in the middle is short of it.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use registry_core::cache::{
    AttachedContent, ExportContent, ExportError, ExportPlan, ExportRequest,
};
use registry_core::{Algorithm, Digest, Hasher, LinkTarget, Progress, Reference, RegistryCache};

use super::layout::{INDEX_FILE, Index, LAYOUT, LAYOUT_FILE, Named, blob_path, name_of};
use super::tar;
use crate::api;
use crate::front::Payload;

/// An archive that is ready to be read.
pub struct ExportedArchive {
    /// What is in it, and what is not.
    pub report: api::ExportReport,
    /// Its length in bytes.
    pub length: u64,
    /// Its bytes, which end in an error where some cannot be had after all, or are found to be
    /// wrong: the archive is then short of its length.
    pub bytes: BoxStream<'static, io::Result<Bytes>>,
}

impl fmt::Debug for ExportedArchive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExportedArchive")
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

/// Finds out what an archive of images has to hold, and begins it. The same images give the same
/// bytes, whenever and wherever.
///
/// # Errors
///
/// [`ExportError`].
///
/// # Cancellation
///
/// Dropping the future, or the bytes, ends it; what is being fetched for it is fetched on.
pub async fn export_archive(
    cache: &RegistryCache,
    request: &ExportRequest,
    progress: &Progress,
) -> Result<ExportedArchive, ExportError> {
    let plan = cache.plan_export(request, progress).await?;
    let files = files_of(&plan);
    let length = files.iter().map(File::length).sum::<u64>() + tar::END.len() as u64;
    let report = report(&plan, &files, length);
    let (cache, plan) = (cache.clone(), Arc::new(plan));
    let bytes = stream::iter(files)
        .then(move |file| {
            let (cache, plan) = (cache.clone(), Arc::clone(&plan));
            async move { file.open(&cache, &plan).await }
        })
        .try_flatten()
        .chain(stream::iter([Ok(Bytes::from_static(tar::END))]));
    Ok(ExportedArchive {
        report,
        length,
        bytes: until_error(bytes.boxed()),
    })
}

/// The same bytes, and nothing after an error.
fn until_error(
    bytes: BoxStream<'static, io::Result<Bytes>>,
) -> BoxStream<'static, io::Result<Bytes>> {
    stream::try_unfold(bytes, async |mut bytes| {
        while let Some(chunk) = bytes.try_next().await? {
            if !chunk.is_empty() {
                return Ok(Some((chunk, bytes)));
            }
        }
        Ok(None)
    })
    .boxed()
}

/// A file of the archive.
struct File {
    path: String,
    size: u64,
    content: Content,
}

enum Content {
    Written(Bytes),
    Kept(ExportContent),
}

impl File {
    fn written(path: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            path: path.into(),
            size: bytes.len() as u64,
            content: Content::Written(bytes),
        }
    }

    /// Bytes of the archive that it takes.
    fn length(&self) -> u64 {
        let around = tar::head(&self.path, self.size).len() + tar::padding(self.size).len();
        self.size + around as u64
    }

    async fn open(
        self,
        cache: &RegistryCache,
        plan: &ExportPlan,
    ) -> io::Result<BoxStream<'static, io::Result<Bytes>>> {
        let (head, padding) = (tar::head(&self.path, self.size), tar::padding(self.size));
        let content = match self.content {
            Content::Written(bytes) => stream::iter([Ok(bytes)]).boxed(),
            Content::Kept(content) => {
                let body = cache
                    .exported(plan, &content)
                    .await
                    .map_err(io::Error::other)?;
                let stream = Payload::of(body).into_stream().map_err(io::Error::other);
                verified(stream.boxed(), content.target.digest(), self.size)
            }
        };
        let head = stream::iter([Ok(head)]);
        let padding = stream::iter([Ok(Bytes::from_static(padding))]);
        Ok(head.chain(content).chain(padding).boxed())
    }
}

/// The same bytes, of which the last are given only once all are known to be right: what is stored
/// may have been damaged since it was verified, and nobody may look at the archive until years from
/// now.
fn verified(
    stream: BoxStream<'static, io::Result<Bytes>>,
    digest: Digest,
    size: u64,
) -> BoxStream<'static, io::Result<Bytes>> {
    let hasher = Some(Hasher::new(digest.algorithm()));
    let start = (stream, hasher, Bytes::new());
    stream::try_unfold(start, move |(mut stream, hasher, held)| async move {
        let Some(mut hasher) = hasher else {
            return Ok(None);
        };
        Ok(match stream.try_next().await? {
            Some(chunk) => {
                hasher.update(&chunk);
                Some((held, (stream, Some(hasher), chunk)))
            }
            None if hasher.size() == size => {
                hasher.verify(digest).map_err(io::Error::other)?;
                Some((held, (stream, None, Bytes::new())))
            }
            None => {
                let what = format!("{digest} has {} bytes, not {size}", hasher.size());
                return Err(io::Error::other(what));
            }
        })
    })
    .boxed()
}

/// Every file, each once, in the order of the archive.
fn files_of(plan: &ExportPlan) -> Vec<File> {
    let mut documents: BTreeMap<Digest, File> = BTreeMap::new();
    let mut write = |bytes: Vec<u8>| {
        let digest = Hasher::digest_of(Algorithm::Sha256, &bytes);
        let path = blob_path(digest);
        documents
            .entry(digest)
            .or_insert_with(|| File::written(path, bytes));
        digest
    };
    let mut attached = Vec::new();
    for content in &plan.attached {
        attached.push(match content {
            AttachedContent::Tag {
                origin,
                tag,
                descriptor,
            } => Named::attached(descriptor, &name_of(origin, &Reference::Tag(tag.clone()))),
            AttachedContent::Referrers {
                origin,
                subject,
                referrers,
            } => {
                let subject = name_of(origin, &Reference::Digest(*subject));
                match referrers {
                    Some(referrers) => {
                        let list = referrers.to_index();
                        write(list.to_vec());
                        Named::referrers(&list, &subject)
                    }
                    None => Named::no_referrers(&subject),
                }
            }
        });
    }
    let attached = (!attached.is_empty()).then(|| write(Index::new(attached).to_bytes()));
    let images = plan.images.iter().map(|image| {
        let name = name_of(&image.origin, &image.reference);
        Named::image(&image.descriptor, &name)
    });
    let index = Index::new(images.collect()).with_attached(attached);
    let mut files = vec![
        File::written(LAYOUT_FILE, LAYOUT),
        File::written(INDEX_FILE, index.to_bytes()),
    ];
    let mut blobs: BTreeMap<Digest, File> = BTreeMap::new();
    for content in &plan.contents {
        let digest = content.target.digest();
        let file = File {
            path: blob_path(digest),
            size: content.size,
            content: Content::Kept(content.clone()),
        };
        match content.target {
            LinkTarget::Manifest(_) => drop(documents.insert(digest, file)),
            LinkTarget::Blob(_) => drop(blobs.insert(digest, file)),
        }
    }
    blobs.retain(|digest, _| !documents.contains_key(digest));
    files.extend(documents.into_values().chain(blobs.into_values()));
    files
}

fn report(plan: &ExportPlan, files: &[File], bytes: u64) -> api::ExportReport {
    let images = plan.images.iter().map(|image| api::ArchivedImage {
        name: name_of(&image.origin, &image.reference),
        digest: image.descriptor.digest.to_string(),
        platforms: image.platforms.iter().map(ToString::to_string).collect(),
    });
    let left_out = plan.left_out.iter().map(|left| api::LeftOut {
        image: name_of(&left.origin, &left.reference),
        digest: left.manifest.to_string(),
        platform: left.platform.as_ref().map(ToString::to_string),
    });
    let attached = plan.attached.iter().map(|content| match content {
        AttachedContent::Tag { .. } => 1,
        AttachedContent::Referrers { referrers, .. } => referrers
            .as_ref()
            .map_or(0, |referrers| referrers.len() as u64),
    });
    api::ExportReport {
        images: images.collect(),
        attached: attached.sum(),
        files: files.len() as u64,
        bytes,
        left_out: left_out.collect(),
    }
}
