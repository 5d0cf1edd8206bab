//! What all of it ran on.

use std::collections::BTreeSet;
use std::path::Path;
use std::thread::available_parallelism;
use std::time::{Duration, UNIX_EPOCH};

use procfs::{CpuInfo, Current as _, Meminfo, process::Process, sys::kernel::Version};
use registry_core::{Clock as _, SystemClock};

use crate::bench::PLACE;

const UNKNOWN: &str = "unknown";

/// Lines about the machine, each a name and what it is.
pub(crate) fn facts() -> Vec<(&'static str, String)> {
    vec![
        ("Date", date()),
        ("Processor", processor()),
        ("Memory", memory()),
        ("Kernel", kernel()),
        ("File system", file_system()),
    ]
}

fn date() -> String {
    let now = UNIX_EPOCH + Duration::from_millis(SystemClock.now().as_millis());
    let text = humantime::format_rfc3339_seconds(now).to_string();
    text.split('T').next().unwrap_or(UNKNOWN).to_owned()
}

fn processor() -> String {
    let cores = available_parallelism().map_or(0, usize::from);
    let info = CpuInfo::current().ok();
    let models = info
        .iter()
        .flat_map(|info| (0..info.num_cores()).filter_map(|core| info.model_name(core)));
    let models: BTreeSet<&str> = models.collect();
    let models: Vec<&str> = models.into_iter().collect();
    format!("{}, {cores} cores", models.join(", "))
}

fn memory() -> String {
    let info = Meminfo::current().ok();
    info.map_or(UNKNOWN.to_owned(), |info| {
        format!("{} GiB", info.mem_total >> 30)
    })
}

fn kernel() -> String {
    let version = Version::current().ok();
    version.map_or(UNKNOWN.to_owned(), |version| {
        format!(
            "Linux {}.{}.{}",
            version.major, version.minor, version.patch
        )
    })
}

/// Of the folder that everything is in: the mount whose path is the longest of those above it.
fn file_system() -> String {
    let mounts = Process::myself().and_then(|myself| myself.mountinfo()).ok();
    let above = mounts
        .into_iter()
        .flatten()
        .filter(|mount| Path::new(PLACE).starts_with(&mount.mount_point));
    let nearest = above.max_by_key(|mount| mount.mount_point.as_os_str().len());
    nearest.map_or(UNKNOWN.to_owned(), |mount| mount.fs_type)
}
