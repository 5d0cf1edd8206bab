//! The upstreams that need no configuration.

use registry_core::UpstreamId;
use url::Url;

use super::UpstreamConfig;

/// Each registry, and where it answers.
const KNOWN: [(&str, &str); 12] = [
    (UpstreamId::DOCKER_IO, "https://registry-1.docker.io"),
    ("docker.elastic.co", "https://docker.elastic.co"),
    ("gcr.io", "https://gcr.io"),
    ("ghcr.io", "https://ghcr.io"),
    ("k8s.gcr.io", "https://k8s.gcr.io"),
    ("lscr.io", "https://lscr.io"),
    ("mcr.microsoft.com", "https://mcr.microsoft.com"),
    ("nvcr.io", "https://nvcr.io"),
    ("public.ecr.aws", "https://public.ecr.aws"),
    ("quay.io", "https://quay.io"),
    ("registry.gitlab.com", "https://registry.gitlab.com"),
    ("registry.k8s.io", "https://registry.k8s.io"),
];

pub(super) fn known_upstreams() -> impl Iterator<Item = (UpstreamId, UpstreamConfig)> {
    KNOWN.into_iter().map(|(id, endpoint)| {
        let id = UpstreamId::parse(id).expect("a test parses every one of them");
        let endpoint = Url::parse(endpoint).expect("a test parses every one of them");
        let mut upstream = UpstreamConfig::new([endpoint]);
        if id.as_str() == "lscr.io" {
            // A front of ghcr.io, whose tokens it wants.
            upstream.realms = vec!["ghcr.io".to_owned()];
        }
        (id, upstream)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_upstream_parses_to_itself() {
        let ids: Vec<_> = known_upstreams().map(|(id, _)| id.to_string()).collect();
        assert_eq!(ids, KNOWN.map(|(id, _)| id));
    }
}
