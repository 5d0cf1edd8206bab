//! Signatures beside images, where cosign puts them, and clients that take them along. What these do
//! not do is verify them: Debian's are built without it.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use serde_json::{Value, json};

use super::are_met;
use super::show::{Stage, UPSTREAM};
use super::tapped::TappedMirror;
use crate::containers_image::{Podman, Skopeo, Way};
use crate::image::{Image, SIGNATURE_ANNOTATION};
use crate::origin::Origin;
use crate::site::{Published, Site};
use crate::workshop::Workshop;

#[test]
fn signatures_come_through_the_mirror_and_without_their_registry() {
    if !are_met("signatures", &[]) {
        return;
    }
    let stage = Stage::new();
    let origin = Origin::start(&stage.workshop, "origin");
    let images = stage.publish(&[&origin]);
    let [signed, _, unsigned] = images.as_slice() else {
        panic!("three images");
    };
    let key = Key::generate();
    let signature = key.sign(&stage.workshop, signed);
    let tag = signature_tag(signed);
    origin.push(&stage.workshop, &signature, signed.repository, &tag);
    let configuration = format!(
        "[upstream.\"{UPSTREAM}\"]\nendpoints = [{:?}]\n",
        origin.url()
    );
    let mirror = TappedMirror::start(&stage.runtime, &stage.workshop, "mirror", &configuration);
    let Stage { runtime, workshop } = stage;
    let registries_d = registries_d(&workshop);
    let site = Site::new(workshop, mirror.address, "config");
    let pull_with_skopeo = |act, published| {
        let skopeo = Skopeo::start(&site, Way::Configured, act).with_signatures(&registries_d);
        site.pull(&skopeo, published);
        signature_in(&skopeo.target(published))
    };

    let found = pull_with_skopeo("cold", signed).expect("the image has a signature");
    key.verify(&found, signed);
    assert_eq!(pull_with_skopeo("unsigned", unsigned), None);
    let pull_with_podman = |act| {
        let podman = Podman::start(&site, Way::Configured, act).with_signatures(&registries_d);
        site.pull(&podman, signed);
    };
    let mark = mirror.mark();
    pull_with_podman("warm");
    let asked = mirror.since(mark);
    let asked = asked
        .iter()
        .any(|request| request.url.path().ends_with(&tag));
    assert!(asked, "Podman did not ask for the signature");
    // Whole and by its tag, as any image: the above has no use for its configuration.
    let as_image = Published {
        tag: tag.clone().leak(),
        content: signature.content,
        ..signed.clone()
    };
    let pull_by_tag = |act| site.pull(&Skopeo::start(&site, Way::Configured, act), &as_image);
    pull_by_tag("by-tag");

    origin.stop();
    let found = pull_with_skopeo("offline", signed).expect("the image has a signature");
    key.verify(&found, signed);
    pull_with_podman("offline");
    pull_by_tag("by-tag-offline");

    mirror.stop(&runtime);
    site.workshop.close();
}

/// `sha256-<hex>.sig`
fn signature_tag(published: &Published) -> String {
    format!(
        "{}.sig",
        published.content.digest.to_string().replace(':', "-")
    )
}

/// A key pair for signatures.
struct Key {
    key: EcdsaKeyPair,
}

impl Key {
    fn generate() -> Self {
        const GENERATED: &str = "the system has randomness, and what it makes is well-formed";
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect(GENERATED);
        Self {
            key: EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).expect(GENERATED),
        }
    }

    /// Signs what a name stands for (`containers-signature(5)`, as cosign has it).
    fn sign(&self, workshop: &Workshop, published: &Published) -> Image {
        let name = format!("{}/{}", published.registry, published.repository);
        let statement = json!({
            "critical": {
                "identity": {"docker-reference": name},
                "image": {"docker-manifest-digest": published.content.digest.to_string()},
                "type": "cosign container image signature",
            },
            "optional": null,
        });
        let statement = statement.to_string();
        let signature = self.key.sign(&SystemRandom::new(), statement.as_bytes());
        let signature = STANDARD.encode(signature.expect("the system has randomness"));
        let layout = workshop.path("images/signature");
        Image::signature(layout, statement.as_bytes(), &signature)
    }

    /// Panics where this is no signature of what a name stands for.
    #[track_caller]
    fn verify(&self, signature: &Value, published: &Published) {
        let decode = |value: &Value| STANDARD.decode(value.as_str().unwrap_or_default());
        let statement = decode(&signature["payload"]).expect("base64");
        let signature = &signature["annotations"][SIGNATURE_ANNOTATION];
        let signature = decode(signature).expect("base64");
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, self.key.public_key());
        let verified = key.verify(&statement, &signature);
        verified.expect("signed with this key");
        let statement: Value = serde_json::from_slice(&statement).expect("JSON");
        let digest = &statement["critical"]["image"]["docker-manifest-digest"];
        assert_eq!(*digest, published.content.digest.to_string());
    }
}

/// Lets clients look for the signatures of every image where cosign puts them.
fn registries_d(workshop: &Workshop) -> PathBuf {
    let folder = workshop.create_folder("registries.d");
    let text = "default-docker:\n  use-sigstore-attachments: true\n";
    fs::write(folder.join("default.yaml"), text).expect("write a configuration");
    folder
}

/// The signature that Skopeo has put beside an image, if any.
fn signature_in(folder: &Path) -> Option<Value> {
    let bytes = fs::read(folder.join("signature-1")).ok()?;
    let json = bytes.strip_prefix(b"\0sigstore-json\n");
    let json = json.expect("Skopeo tells the signature's format");
    Some(serde_json::from_slice(json).expect("a signature in JSON"))
}
