//! What no client can try out here, or would be silent about.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use registry_core::UpstreamId;
use registry_server::config::{Config, Flags};
use registry_server::hosts_toml::hosts_toml;
use registry_server::testing::FixtureTls;
use serde::Deserialize;
use tempfile::TempDir;
use toml::{Table, Value};

use super::*;

fn toml_example(name: &str) -> Table {
    example(name).parse().expect("the example is TOML")
}

/// The `registry` table of a CRI plugin, as it stands in containerd's configuration.
fn registry_table<'a>(configuration: &'a Table, plugin: &str) -> Option<&'a Value> {
    configuration.get("plugins")?.get(plugin)?.get("registry")
}

/// The hosts of a `hosts.toml`, in the file's order.
fn hosts(hosts_toml: &Table) -> Vec<&str> {
    let hosts = hosts_toml["host"].as_table().expect("a table of hosts");
    hosts.keys().map(String::as_str).collect()
}

#[test]
fn hosts_files_avoid_what_containerd_skips_in_silence() {
    for name in ["_default", "docker.io"] {
        let file = toml_example(&format!("containerd/certs.d/{name}/hosts.toml"));
        // containerd before 1.7.32 rejects a file without a host table.
        assert_eq!(hosts(&file), [format!("http://{ADDRESS}")], "{name}");
        for host in file["host"].as_table().expect("a table of hosts").values() {
            // Any capability that a version does not know makes it reject the file.
            let capabilities: Vec<String> =
                host["capabilities"].clone().try_into().expect("a list");
            assert_eq!(capabilities, ["pull", "resolve"], "{name}");
        }
    }
}

/// The mirror prints the file at start, and for `registry-server hosts-toml`.
#[test]
fn the_default_hosts_file_is_the_one_that_the_mirror_prints() {
    let url = format!("http://{ADDRESS}").parse().expect("a URL");
    let printed: Table = hosts_toml(&url).parse().expect("it is TOML");
    assert_eq!(
        toml_example("containerd/certs.d/_default/hosts.toml"),
        printed
    );
    assert_eq!(Config::default().listen.to_string(), ADDRESS);
}

#[test]
fn containerd_of_either_generation_finds_the_same_single_folder() {
    let configuration = toml_example("containerd/config.toml");
    let plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images"];
    for plugin in plugins {
        let registry = registry_table(&configuration, plugin).expect(plugin);
        let folder = registry["config_path"].as_str();
        assert_eq!(folder, Some(CERTS_FOLDER), "{plugin}");
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KindCluster {
    kind: String,
    api_version: String,
    nodes: Vec<KindNode>,
    containerd_config_patches: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KindNode {
    role: String,
    extra_mounts: Vec<KindMount>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KindMount {
    host_path: PathBuf,
    container_path: String,
    read_only: bool,
}

#[test]
fn kind_gives_its_nodes_what_the_tests_give_containerd() {
    let cluster: KindCluster =
        serde_saphyr::from_str(&example("kind/cluster.yaml")).expect("the example is YAML");
    assert_eq!(cluster.kind, "Cluster");
    assert_eq!(cluster.api_version, "kind.x-k8s.io/v1alpha4");

    let certs = examples_folder().join("containerd/certs.d").canonicalize();
    let certs = certs.expect("the folder is there");
    assert!(!cluster.nodes.is_empty());
    for node in &cluster.nodes {
        let [mount] = node.extra_mounts.as_slice() else {
            panic!("{}: one mount", node.role);
        };
        // kind resolves it against the folder it is started in.
        let mounted = examples_folder().join("kind").join(&mount.host_path);
        assert_eq!(
            mounted.canonicalize().expect("it is there"),
            certs,
            "{}",
            node.role
        );
        assert_eq!(mount.container_path, CERTS_FOLDER, "{}", node.role);
        assert!(mount.read_only, "{}", node.role);
    }

    let ours = toml_example("containerd/config.toml");
    for patch in &cluster.containerd_config_patches {
        let patch: Table = patch.parse().expect("a patch is TOML");
        for plugin in patch["plugins"].as_table().expect("plugins").keys() {
            let patched = registry_table(&patch, plugin);
            assert_eq!(patched, registry_table(&ours, plugin), "{plugin}");
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct K3sRegistries {
    mirrors: BTreeMap<String, K3sMirror>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct K3sMirror {
    endpoint: Vec<String>,
}

/// k3s writes `hosts.toml` itself: one host for each endpoint, `_default` for `"*"`.
#[test]
fn k3s_makes_the_hosts_that_the_tests_give_containerd() {
    let registries: K3sRegistries =
        serde_saphyr::from_str(&example("k3s/registries.yaml")).expect("the example is YAML");
    let names: Vec<_> = registries.mirrors.keys().collect();
    assert_eq!(names, ["*"]);
    let default = toml_example("containerd/certs.d/_default/hosts.toml");
    // Equal to the letter: with a path of its own, k3s would leave out the `/v2`.
    assert_eq!(registries.mirrors["*"].endpoint, hosts(&default));
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ContainersRegistries {
    registry: Vec<ContainersRegistry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ContainersRegistry {
    location: String,
    mirror: Vec<ContainersMirror>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ContainersMirror {
    location: String,
    insecure: bool,
}

#[test]
fn podman_finds_each_registry_under_its_own_path() {
    let file: ContainersRegistries =
        toml::from_str(&example("podman/registries.conf")).expect("the example is TOML");
    let mut seen = BTreeSet::new();
    for registry in &file.registry {
        let [mirror] = registry.mirror.as_slice() else {
            panic!("{}: one mirror", registry.location);
        };
        assert_eq!(mirror.location, format!("{ADDRESS}/{}", registry.location));
        assert!(mirror.insecure, "{}", registry.location);
        assert!(
            seen.insert(registry.location.clone()),
            "{} twice",
            registry.location
        );
    }
    let known = Config::default().upstreams;
    let known = known.keys().map(ToString::to_string).collect();
    assert_eq!(seen, known, "the registries that a mirror knows by itself");
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct DockerDaemon {
    registry_mirrors: Vec<String>,
}

#[test]
fn docker_is_given_a_url_without_a_path() {
    let daemon: DockerDaemon =
        serde_json::from_str(&example("docker/daemon.json")).expect("the example is JSON");
    assert_eq!(daemon.registry_mirrors, [format!("http://{ADDRESS}")]);
}

/// What the README tells users to type does what the tests do.
#[test]
fn the_command_of_the_readme_changes_every_address() {
    let page = example("README.md");
    let command = shell_blocks(&page).find(|block| block.contains("sed"));
    let command = command.expect("the README has a command for the address");
    let (typed, expected) = (folder(), folder());
    ExampleFiles::render(typed.path(), ADDRESS);
    ExampleFiles::render(expected.path(), "mirror.internal:5000");
    let status = Command::new("sh")
        .args(["-c", command])
        .current_dir(typed.path())
        .status();
    assert!(status.expect("start a shell").success(), "{command}");
    for path in files_under(expected.path()) {
        let name = path.strip_prefix(expected.path()).expect("it is in there");
        // The page itself tells where the command finds the address.
        if name != Path::new("README.md") {
            let changed = read(&typed.path().join(name));
            assert_eq!(changed, read(&path), "{}", name.display());
            assert!(!changed.contains(ADDRESS), "{}", name.display());
        }
    }
}

/// The mirror's other files are about registries, and `registries` has some for them.
#[test]
fn the_mirror_is_configured_as_its_file_says() {
    let text = example("mirror/registry-server.toml");
    let (folder, certificate) = (folder(), FixtureTls::generate().ca_pem);
    let path = folder.path().to_str().expect("a UTF-8 path");
    fs::write(folder.path().join("ca.pem"), certificate).expect("write a certificate");
    let file = folder.path().join("registry-server.toml");
    fs::write(&file, text.replace(MIRROR_FOLDER, path)).expect("write a configuration");
    let variable = |name: &str| (name == "REGISTRY_CONFIG").then(|| file.clone().into());
    let config = Config::load(Flags::default(), variable).expect("it is a configuration");
    assert_eq!(config.listen.to_string(), "0.0.0.0:5000");
    let id = UpstreamId::parse("registry.example.org").expect("a name");
    let upstream = &config.upstreams[&id];
    assert_eq!(upstream.ca_file, Some(folder.path().join("ca.pem")));
    assert_eq!(upstream.rules.tag_ttl, Some(Duration::from_secs(10)));
    assert_eq!(upstream.rules.forward_not_found, Some(false));
}

fn folder() -> TempDir {
    TempDir::new().expect("create a folder")
}

/// What a reader copies out of a page is what the tests run.
#[test]
fn pages_quote_the_examples_to_the_letter() {
    let examples: Vec<String> = files_under(&examples_folder())
        .iter()
        .filter(|path| path.extension().is_none_or(|extension| extension != "md"))
        .map(|path| read(path))
        .collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let pages = fs::read_dir(&root)
        .expect("list the repository")
        .map(|entry| entry.expect("list the repository").path());
    for page in pages.filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
        let text = read(&page);
        for block in configuration_blocks(&text).filter(|block| block.contains(ADDRESS)) {
            let is_example = examples.iter().any(|example| example.contains(block));
            assert!(
                is_example,
                "{}: not in examples/config:\n{block}",
                page.display()
            );
        }
        for name in words_beginning_with(&text, "examples/config/") {
            let exists = root.join(name).exists();
            assert!(exists, "{}: {name} does not exist", page.display());
        }
    }
}

/// The mirror's own files name no address of its; comments are for those who find the file first.
#[test]
fn the_readme_quotes_every_file_of_the_mirror() {
    let readme = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md"));
    let blocks: Vec<_> = configuration_blocks(&readme).collect();
    let files = files_under(&examples_folder().join("mirror"));
    assert!(!files.is_empty());
    for path in files {
        let text = read(&path);
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let settings = lines.collect::<Vec<_>>().join("\n");
        let is_quoted = blocks.contains(&settings.trim());
        assert!(is_quoted, "not in the README: {}", path.display());
    }
}

/// The fenced blocks in a language of configuration files.
fn configuration_blocks(page: &str) -> impl Iterator<Item = &str> {
    blocks_in(page, &["toml", "yaml", "json"])
}

fn shell_blocks(page: &str) -> impl Iterator<Item = &str> {
    blocks_in(page, &["sh"])
}

fn blocks_in<'a>(page: &'a str, languages: &[&str]) -> impl Iterator<Item = &'a str> {
    let parts = page.split("\n```").skip(1).step_by(2);
    parts.filter_map(|block| {
        let (language, body) = block.split_once('\n')?;
        let language = language.split_whitespace().next().unwrap_or_default();
        languages.contains(&language).then(|| body.trim())
    })
}

fn words_beginning_with<'a>(page: &'a str, prefix: &str) -> impl Iterator<Item = &'a str> {
    let is_end = |c: char| !c.is_ascii_alphanumeric() && !"_-./".contains(c);
    page.match_indices(prefix).map(move |(start, _)| {
        let word = page[start..].split(is_end).next().unwrap_or_default();
        word.trim_end_matches('.')
    })
}

#[test]
fn blocks_and_words_of_a_page_are_found() {
    let page = "See `examples/config/kind/cluster.yaml`.\n```toml\na = 1\n```\n\n```sh\nls\n```\n\
                and\n```json title\n{}\n```\nor examples/config/docker.\n";
    let blocks: Vec<_> = configuration_blocks(page).collect();
    assert_eq!(blocks, ["a = 1", "{}"]);
    let words: Vec<_> = words_beginning_with(page, "examples/config/").collect();
    assert_eq!(
        words,
        [
            "examples/config/kind/cluster.yaml",
            "examples/config/docker"
        ]
    );
}
