//! The files of `examples/config`: the tests hand these very files to the clients, and change
//! nothing but the address, as the README there tells users to do.

mod checks;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The mirror's address in every file.
const ADDRESS: &str = "127.0.0.1:5000";
/// Where a node's containerd looks for `hosts.toml`.
pub(crate) const CERTS_FOLDER: &str = "/etc/containerd/certs.d";

/// Where the mirror's own files are.
pub(crate) const MIRROR_FOLDER: &str = "/etc/registry-server";

/// The files with the address of a test's mirror.
pub(crate) struct ExampleFiles {
    folder: PathBuf,
}

impl ExampleFiles {
    #[track_caller]
    pub(crate) fn render(folder: &Path, mirror: impl ToString) -> Self {
        let mirror = mirror.to_string();
        for path in files_under(&examples_folder()) {
            let text = fs::read_to_string(&path).expect("an example is UTF-8 text");
            let name = path
                .strip_prefix(examples_folder())
                .expect("it is in that folder");
            let target = folder.join(name);
            fs::create_dir_all(target.parent().expect("it is in a folder")).expect("create");
            fs::write(target, text.replace(ADDRESS, &mirror)).expect("write");
        }
        Self {
            folder: folder.to_owned(),
        }
    }

    /// Changes what a mirror with TLS wants changed: the URL, the authority in `hosts.toml`, and
    /// leave to do without.
    #[track_caller]
    pub(crate) fn secure(&self, mirror: SocketAddr, ca_file: &Path) {
        for path in files_under(&self.folder) {
            let text = read(&path);
            let mut text = text
                .replace(&format!("http://{mirror}"), &format!("https://{mirror}"))
                .replace("insecure = true\n", "");
            if path.ends_with("hosts.toml") {
                assert!(text.ends_with('\n'), "the table of the host stands last");
                text += &format!("  ca = {ca_file:?}\n");
            }
            fs::write(path, text).expect("write");
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    #[track_caller]
    pub(crate) fn read(&self, name: &str) -> String {
        read(&self.path(name))
    }
}

/// An example as it is written.
#[track_caller]
pub(crate) fn example(name: &str) -> String {
    read(&examples_folder().join(name))
}

fn examples_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/config")
}

#[track_caller]
fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn files_under(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("list the examples");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("list").path()).collect();
    paths.sort();
    let (folders, mut files): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| path.is_dir());
    files.extend(folders.iter().flat_map(|folder| files_under(folder)));
    files
}
