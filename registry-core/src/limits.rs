//! Every limit of the cache, in one place (I8).

use std::time::Duration;

/// The limits of a [`RegistryCache`](crate::RegistryCache). Stores and servers have their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest manifest, in bytes. Readers refuse more: containers/image stops at 4 MiB.
    pub manifest_bytes_max: usize,
    /// Bytes at the end of a blob that no client gets before its digest matches (I2).
    pub held_back_bytes: u64,
    /// Bytes that a reader of a fill gets at a time, where it is given bytes.
    pub chunk_bytes: usize,
    /// Bytes of a fill's file that a reader is given at a time. What a fill is found to be wrong
    /// for is sent no further than the slice that is being sent.
    pub slice_bytes_max: u64,
    /// Bytes of a download that are taken at a time to be hashed and written: as many as have come
    /// already, and the first piece of them in any case. One piece may be longer.
    pub batch_bytes_max: u64,
    /// In how many pieces those may have come.
    pub batch_pieces_max: usize,
    /// Up to how many bytes are hashed on the thread that received them: to hand so few to another
    /// costs more than to hash them.
    pub hashed_inline_bytes_max: u64,
    /// How far past what a fill has reached a range may begin and still be waited for; further
    /// ahead, a part is fetched there on a request of its own.
    pub range_ahead_bytes_max: u64,
    /// The first part that is fetched ahead of a fill for a client that does not say where it will
    /// stop; each further one, as it reads on, is twice as long.
    pub segment_bytes_min: u64,
    /// The longest part that is fetched ahead of a fill.
    pub segment_bytes_max: u64,
    /// The shortest stretch that is here already for which a fill lets go of its download, to go on
    /// behind it with another: it costs a round trip.
    pub jump_bytes_min: u64,
    /// In how many pieces a fill may be; further ranges ahead of it are passed through.
    pub pieces_max: usize,
    /// How often in a row a download that broke off is asked for again to little avail.
    pub resumes_max: u32,
    /// Bytes that are more than little.
    pub resume_progress_bytes: u64,
    /// Wait before the second time in a row; it doubles from there.
    pub resume_delay_min: Duration,
    /// The longest such wait, also where the upstream asks for one.
    pub resume_delay_max: Duration,
    /// How long a download that breaks off again and again is asked for again.
    pub resume_time_max: Duration,
    /// How many blobs are remembered whose parts did not make up the whole: they are fetched at
    /// once or not at all.
    pub suspects_max: usize,
    /// Fills at a time; further ones wait for their turn.
    pub fills_max: usize,
    /// Fills beyond those that may wait for their turn, or for the store to commit; further ones
    /// are refused.
    pub fills_waiting_max: usize,
    /// Questions to upstreams at a time of each kind (what a tag names, a manifest, proof of
    /// access), each shared by all who ask it; further ones are refused.
    pub flights_max: usize,
    /// Requests at a time that go upstream besides those of fills: parts that are fetched ahead of
    /// them, and everything that is not stored, while the store is failing.
    pub bypasses_max: usize,
    /// How long a fill, a bypass or a lookup waits for its turn or for the upstream's headers.
    pub upstream_wait_max: Duration,
    /// How long a fill waits for the next bytes of its body.
    pub body_idle_max: Duration,
    /// How long one call of the store may take before it counts as failed.
    pub store_wait_max: Duration,
    /// The same for a commit, which makes a whole blob durable while nobody waits for it.
    pub commit_wait_max: Duration,
    /// How often a client's request is begun anew because the fill it followed was another's and
    /// failed.
    pub follow_attempts_max: u32,
    /// How long an upstream's "not found" is remembered.
    pub negative_ttl: Duration,
    /// The same, for signatures, attestations and other content that follows its image in moments.
    pub negative_attached_ttl: Duration,
    /// How many of them are remembered.
    pub negative_entries_max: usize,
    /// Of how many tags it is remembered what their upstream last said.
    pub answers_max: usize,
    /// How many manifests and blobs of one image are looked at for whoever asks about it.
    pub image_parts_max: usize,
    /// How many of the latest removals are looked through for what became of an image.
    pub removals_looked_through_max: usize,
    /// How many blobs of one image are fetched at a time before anybody pulls it.
    pub warm_blobs_max: usize,
    /// How many failures of one verification are told one by one; all are counted.
    pub verify_findings_max: usize,
    /// Bytes that are read at a time to be verified.
    pub verify_chunk_bytes: usize,
    /// Tags, repositories or referrers in one page of a listing.
    pub page_entries_max: usize,
    /// Bytes of descriptors in one page of referrers. Clients read it as a manifest, and refuse
    /// more than 4 MiB.
    pub referrers_page_bytes_max: usize,
    /// How long whatever is to be kept waits for eviction to make room for it; then it passes
    /// through.
    pub room_wait_max: Duration,
    /// How long it is remembered that no room can be made: how much is kept that may not go, so that
    /// what finds none beside it costs nobody's content; and that eviction hangs, so that not each
    /// pull waits for it. Meanwhile, what needs it passes through at once.
    pub room_refused_for: Duration,
    /// The same where eviction failed, which it does at once: a full disk may have room again a
    /// moment later.
    pub room_failed_for: Duration,
    /// Bytes that a store may need beside each blob and manifest, and each time that one is linked in
    /// one more origin: room is promised with them. The embedded store needs 917 at most: 328 of
    /// media type and 589 of the origin, where all names are as long as can be.
    pub content_overhead_bytes: u64,
    /// Units that are looked at a time for eviction.
    pub eviction_batch: usize,
    /// How many may have to stay in a row before it is given up for this time. What stays is moved
    /// on, so that the next time begins with others.
    pub postponed_max: usize,
    /// How many of each kind are looked at that something hangs together with: tags of a manifest,
    /// origins that it is linked in, manifests that name it. What has more of them is not evicted
    /// where that would have to be known.
    pub bonds_max: usize,
    /// How often it is looked for what nobody has used for too long.
    pub upkeep_every: Duration,
    /// How many origins of one upstream count towards its limit.
    pub quota_origins_max: usize,
    /// How many bodies are taken note of that are being read, so that they are not evicted.
    pub open_bodies_max: usize,
    /// How many pins there may be.
    pub pins_max: usize,
    /// How many tags and origins are written down of each removal.
    pub removal_names_max: usize,
    /// How many removals one collection lists.
    pub collected_listed_max: usize,
    /// Exports and imports of images at a time; further ones are refused.
    pub transfers_max: usize,
    /// Images in one of them.
    pub transfer_images_max: usize,
    /// Manifests and blobs in one of them.
    pub transfer_entries_max: usize,
    /// Bytes of manifests that an import keeps in memory until all that they name is there.
    pub transfer_manifest_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            manifest_bytes_max: 4 << 20,
            held_back_bytes: 16 << 10,
            chunk_bytes: 64 << 10,
            slice_bytes_max: 1 << 20,
            batch_bytes_max: 512 << 10,
            batch_pieces_max: 256,
            hashed_inline_bytes_max: 16 << 10,
            range_ahead_bytes_max: 4 << 20,
            segment_bytes_min: 1 << 20,
            segment_bytes_max: 4 << 20,
            jump_bytes_min: 1 << 20,
            pieces_max: 1_024,
            resumes_max: 5,
            resume_progress_bytes: 64 << 10,
            resume_delay_min: Duration::from_millis(250),
            resume_delay_max: Duration::from_secs(5),
            resume_time_max: Duration::from_secs(120),
            suspects_max: 1_024,
            fills_max: 64,
            fills_waiting_max: 1_024,
            flights_max: 4_096,
            bypasses_max: 256,
            upstream_wait_max: Duration::from_secs(25),
            body_idle_max: Duration::from_secs(60),
            store_wait_max: Duration::from_secs(10),
            commit_wait_max: Duration::from_secs(600),
            follow_attempts_max: 3,
            negative_ttl: Duration::from_secs(5),
            negative_attached_ttl: Duration::from_secs(1),
            negative_entries_max: 16_384,
            answers_max: 4_096,
            image_parts_max: 10_000,
            removals_looked_through_max: 1_000,
            warm_blobs_max: 4,
            verify_findings_max: 1_000,
            verify_chunk_bytes: 256 << 10,
            page_entries_max: 1_000,
            referrers_page_bytes_max: 2 << 20,
            room_wait_max: Duration::from_secs(10),
            room_refused_for: Duration::from_secs(30),
            room_failed_for: Duration::from_secs(1),
            content_overhead_bytes: 1 << 10,
            eviction_batch: 32,
            postponed_max: 1_024,
            bonds_max: 1_024,
            upkeep_every: Duration::from_secs(600),
            quota_origins_max: 65_536,
            open_bodies_max: 65_536,
            pins_max: 1_000,
            removal_names_max: 8,
            collected_listed_max: 1_000,
            transfers_max: 4,
            transfer_images_max: 1_000,
            transfer_entries_max: 65_536,
            transfer_manifest_bytes_max: 64 << 20,
        }
    }
}
