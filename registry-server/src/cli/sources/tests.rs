//! Texts as they come from the programs that write them.

use super::*;

fn found(text: &str) -> Found {
    found_as(text, Format::Auto).unwrap()
}

fn found_as(text: &str, format: Format) -> Result<Found, String> {
    find(text, format, &|name| {
        (name == "TAG").then(|| "2.0".to_owned())
    })
}

#[test]
fn a_list_has_one_image_a_line() {
    let list =
        "# what the cluster needs\nalpine:3.20\n\n  ghcr.io/org/app:1   # the app\r\nalpine:3.20\n";
    let images = found(list);
    assert_eq!(images.images, ["alpine:3.20", "ghcr.io/org/app:1"]);
    assert!(images.unusable.is_empty());
    // Also where it is one word only.
    assert_eq!(found("alpine").images, ["alpine"]);
    // What is wrong is told by its line, and the rest is used.
    let images = found("alpine\nNginx\n");
    assert_eq!(images.images, ["alpine"]);
    assert!(
        images.unusable[0].starts_with("line 2: "),
        "{:?}",
        images.unusable
    );
}

#[test]
fn a_list_may_be_yaml_or_json() {
    assert_eq!(found("- alpine\n- nginx:1\n").images, ["alpine", "nginx:1"]);
    assert_eq!(
        found("[\"alpine\", \"nginx:1\"]").images,
        ["alpine", "nginx:1"]
    );
}

#[test]
fn every_image_of_a_rendered_chart_is_found() {
    let images = found(include_str!("tests/chart.yaml"));
    assert_eq!(
        images.images,
        [
            "docker.io/bitnami/postgresql:16.4.0-debian-12-r9",
            "docker.io/bitnami/postgres-exporter:0.15.0-debian-12-r43",
            "docker.io/bitnami/os-shell:12-debian-12-r30",
            "registry.k8s.io/ingress-nginx/controller:v1.11.2@sha256:d5f8217feeac4887cb1ed21f27c2674e58be06bd8f5184cacea2a69abaf78dce",
            "ghcr.io/org/backup:1.4",
            "quay.io/org/models:large",
            "busybox",
            "quay.io/prometheus/prometheus:v2.54.1",
            "alpine:3.20",
        ]
    );
    assert!(images.unusable.is_empty(), "{:?}", images.unusable);
    assert_eq!(
        images.remarks,
        ["Deployment istio-ingress/gateway: left out the image \"auto\", which is put in later"]
    );
}

#[test]
fn what_a_cluster_prints_is_read_too() {
    let list = r#"{"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {
            "containers": [{"name": "a", "image": "nginx:1"}],
            "ephemeralContainers": [{"name": "debug", "image": "busybox:1"}]}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"},
            "data": {"image": "not/one:1"}}]}"#;
    assert_eq!(found(list).images, ["nginx:1", "busybox:1"]);
}

#[test]
fn what_cannot_be_used_is_told_with_its_object() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - image: ''\n  - image: Web:1\n  - image: web:1\n";
    let images = found(pod);
    assert_eq!(images.images, ["web:1"]);
    assert_eq!(images.unusable.len(), 2);
    assert!(
        images.unusable.iter().all(|it| it.starts_with("Pod web: ")),
        "{:?}",
        images.unusable
    );
}

#[test]
fn a_compose_file_has_the_images_of_its_services() {
    let images = found(include_str!("tests/compose.yaml"));
    assert_eq!(
        images.images,
        [
            "redis:7-alpine",
            "postgres:16",
            "ghcr.io/org/web:stable",
            "ghcr.io/org/worker:2.0"
        ]
    );
    assert_eq!(
        images.unusable,
        ["service mail: the variable MAIL_VERSION is not set, and has no default"]
    );
    assert_eq!(
        images.remarks,
        ["service built: left out, since it is built and not pulled"]
    );
}

#[test]
fn what_is_none_of_them_is_refused_with_what_to_do() {
    for (text, wanted) in [
        ("", "it is empty"),
        ("# nothing\n---\n", "it is empty"),
        (
            "replicas: 1\nimage:\n  repository: nginx\n",
            "helm template",
        ),
        ("image: {{ .Values.image }}\n", "helm template"),
        (
            "kind: Pod\napiVersion: v1\n---\nfoo: bar\n",
            "document 2 is no Kubernetes object",
        ),
        (
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n",
            "kubectl kustomize",
        ),
        (
            "resources: [a.yaml]\nimages:\n- name: nginx\n  newTag: '1'\n",
            "kubectl kustomize",
        ),
        ("a: [b", "nor YAML"),
        ("alpine nginx", "neither Kubernetes objects"),
    ] {
        let problem = found_as(text, Format::Auto).expect_err(text);
        assert!(problem.contains(wanted), "{text:?}: {problem}");
    }
    // A person may insist.
    let mixed = "kind: Pod\napiVersion: v1\n---\nspec: {image: alpine}\n";
    assert_eq!(
        found_as(mixed, Format::Kubernetes).unwrap().images,
        ["alpine"]
    );
    assert!(found_as("a: 1", Format::Compose).is_err());
}

#[test]
fn yaml_that_stands_for_far_more_than_it_is_is_refused() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let one = format!("*a{}", level - 1);
        let all = [one.as_str(); 10].join(", ");
        bomb += &format!("a{level}: &a{level} [{all}]\n");
    }
    assert!(found_as(&bomb, Format::Auto).is_err());
    let deep = "[".repeat(100_000);
    assert!(found_as(&deep, Format::Kubernetes).is_err());
}
