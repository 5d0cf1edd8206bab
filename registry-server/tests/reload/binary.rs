//! The binary: on SIGHUP, and by itself when its file has changed.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use registry_server::testing::FixtureRegistry;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::http::get;
use crate::process::Process;
use crate::support::{manifest, registry, replace, table};

/// How long a change may take to be noticed: it is looked for every two seconds.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// The binary, with a file of its own.
struct Running {
    process: Process,
    address: SocketAddr,
    _folder: TempDir,
}

/// Runs the binary, with the file that `lay` lays into a folder.
fn run(lay: impl FnOnce(&Path) -> std::path::PathBuf) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let path = lay(folder.path());
    let process = Process::serve(folder.path(), &["--config", path.to_str().unwrap()]);
    let address = process.address();
    Running {
        process,
        address,
        _folder: folder,
    }
}

impl Running {
    fn status(&self, upstream: &str) -> u16 {
        get(self.address, &manifest(upstream, "app:latest")).status
    }

    #[track_caller]
    fn await_status(&self, upstream: &str, status: u16) {
        let deadline = Instant::now() + WAIT_MAX;
        while self.status(upstream) != status {
            assert!(Instant::now() < deadline, "{upstream} is not {status}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    #[track_caller]
    fn await_words(&self, words: &str) {
        self.process
            .await_line(|line| line.contains(words).then_some(()));
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

async fn on_a_thread(test: impl FnOnce(&FixtureRegistry) + Send + 'static) {
    let (registry, _) = registry().await;
    tokio::task::spawn_blocking(move || test(&registry))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sighup_it_reads_its_file_again() {
    on_a_thread(|registry| {
        let mut path = None;
        let running = run(|folder| {
            let file = folder.join("registry.toml");
            write(&file, &table("one.test", registry));
            path = Some(file.clone());
            file
        });
        let path = path.unwrap();
        assert_eq!(running.status("one.test"), 200);
        assert_eq!(running.status("two.test"), 404);
        let both = table("one.test", registry) + &table("two.test", registry);
        replace(&path, &both);
        running.process.signal(Signal::HUP);
        running.await_words("upstream two.test added");
        assert_eq!(running.status("two.test"), 200);

        write(&path, "listen = 5\n");
        running.process.signal(Signal::HUP);
        running.await_words("registry.toml:1: listen: is of type integer");
        assert_eq!(running.status("two.test"), 200);

        let (status, said) = running.process.stop_and_say();
        assert!(status.success());
        let refusals = said
            .matches("is refused: what was in effect still is")
            .count();
        assert_eq!(refusals, 1, "{said}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_file_sighup_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let test = move || {
        let process = Process::serve(folder.path(), &["--upstream", "a.test=http://127.0.0.1:9"]);
        process.signal(Signal::HUP);
        process.await_line(|line| {
            line.contains("there is no configuration file")
                .then_some(())
        });
        assert_eq!(get(process.address(), "/v2/").status, 200);
        assert!(process.stop().success());
    };
    tokio::task::spawn_blocking(test).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_is_read_however_it_does() {
    on_a_thread(|registry| {
        let mut path = None;
        let running = run(|folder| {
            let file = folder.join("registry.toml");
            write(&file, &table("one.test", registry));
            path = Some(file.clone());
            file
        });
        let path = path.unwrap();
        let both = table("one.test", registry) + &table("two.test", registry);
        // Replaced by another, as editors do.
        replace(&path, &both);
        running.await_status("two.test", 200);
        // Written in place, and wrong.
        write(&path, "[upstream.\"one.test\"\n");
        running.await_words("is refused: what was in effect still is");
        assert_eq!(running.status("two.test"), 200);
        // Made right.
        write(&path, &table("one.test", registry));
        running.await_status("two.test", 404);
        assert_eq!(running.status("one.test"), 200);
        // Taken away, and put back.
        fs::remove_file(&path).unwrap();
        running.await_words("cannot read ");
        assert_eq!(running.status("one.test"), 200);
        write(&path, &both);
        running.await_status("two.test", 200);
    })
    .await;
}

/// Whatever it looks like while it is being written, it is read when it is whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_being_written_is_left_to_be_written() {
    on_a_thread(|registry| {
        let mut path = None;
        let running = run(|folder| {
            let file = folder.join("registry.toml");
            write(&file, &table("one.test", registry));
            path = Some(file.clone());
            file
        });
        let path = path.unwrap();
        let begin = table("one.test", registry) + "[upstream.\"two.test\"]\nendpoints = [\n";
        write(&path, &begin);
        let mut file = File::options().append(true).open(&path).unwrap();
        // Longer than it takes to look at it twice.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(5) {
            file.write_all(b"# a line of many\n").unwrap();
            assert_eq!(running.status("two.test"), 404);
            thread::sleep(Duration::from_millis(20));
        }
        let end = format!("\"{}\"]\n", registry.url());
        file.write_all(end.as_bytes()).unwrap();
        running.await_status("two.test", 200);
        let (_, said) = running.process.stop_and_say();
        assert!(!said.contains("is refused"), "{said}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_is_read_once() {
    on_a_thread(|registry| {
        let text = table("one.test", registry);
        let running = run(|folder| {
            let pipe = folder.join("registry.toml");
            mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
            let path = pipe.clone();
            // It stands still until somebody reads.
            thread::spawn(move || write(&path, &text));
            pipe
        });
        assert_eq!(running.status("one.test"), 200);
        running.process.signal(Signal::HUP);
        running.await_words("is no file that can be read again, but a pipe");
        assert_eq!(running.status("one.test"), 200);
        let (status, said) = running.process.stop_and_say();
        assert!(status.success());
        assert!(!said.contains("is refused"), "{said}");
    })
    .await;
}

/// A pipe in the place of a file would never say anything.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_taken_the_place_of_a_file_is_not_waited_for() {
    on_a_thread(|registry| {
        let mut path = None;
        let running = run(|folder| {
            let file = folder.join("registry.toml");
            write(&file, &table("one.test", registry));
            path = Some(file.clone());
            file
        });
        let path = path.unwrap();
        fs::remove_file(&path).unwrap();
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        running.process.signal(Signal::HUP);
        running.await_words("is refused: what was in effect still is");
        fs::remove_file(&path).unwrap();
        write(&path, &table("two.test", registry));
        running.process.signal(Signal::HUP);
        running.await_status("two.test", 200);
        assert!(running.process.stop().success());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_map_is_followed_where_it_leads() {
    on_a_thread(|registry| {
        let mut at = None;
        let running = run(|folder| {
            // As Kubernetes lays it out: the file is a link through a link that is replaced.
            for version in ["..1", "..2"] {
                fs::create_dir(folder.join(version)).unwrap();
            }
            let one = table("one.test", registry);
            let both = one.clone() + &table("two.test", registry);
            write(&folder.join("..1/registry.toml"), &one);
            write(&folder.join("..2/registry.toml"), &both);
            symlink("..1", folder.join("..data")).unwrap();
            symlink("..data/registry.toml", folder.join("registry.toml")).unwrap();
            at = Some(folder.to_owned());
            folder.join("registry.toml")
        });
        let folder = at.unwrap();
        assert_eq!(running.status("two.test"), 404);
        symlink("..2", folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
        fs::remove_dir_all(folder.join("..1")).unwrap();
        running.await_status("two.test", 200);
        assert_eq!(running.status("one.test"), 200);
    })
    .await;
}
