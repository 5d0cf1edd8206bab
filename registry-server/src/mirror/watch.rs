//! Notices that the files of the configuration have changed: whatever was done to them, edited in
//! place, replaced, taken away, or led elsewhere by a link, as Kubernetes does.
//!
//! They are looked at rather than watched: that works on every file system, and a look costs less
//! than a request. What is found must be found twice before it is read, so that a file is not taken
//! while it is being written.

use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::files::Stamp;
use super::reload::ReloadHandle;

/// How long from one look at the files to the next. What is found at two of them is read.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Reads the configuration again whenever its files have changed, until it is told to stop.
pub(super) async fn watch(handle: ReloadHandle, stop: CancellationToken) {
    if !handle.is_from_file() {
        return;
    }
    let mut found = Settling::default();
    let watching = async {
        loop {
            sleep(LOOK_INTERVAL).await;
            let looking = handle.clone();
            let Ok(stamps) = spawn_blocking(move || looking.stamps()).await else {
                return;
            };
            // One that was refused may be right now for another reason than that it has changed: a
            // file that it names is there.
            if found.settled(stamps) || handle.state().refused.is_some() {
                // It tells by itself what became of it.
                let _ = handle.reload().await;
            }
        }
    };
    tokio::select! {
        () = watching => {}
        () = stop.cancelled() => {}
    }
}

/// Tells what has changed and stays so from what is changing still.
#[derive(Default)]
struct Settling {
    /// As it was read last; nothing at first, so that what has changed between the start and the
    /// first look is not missed.
    read: Option<Vec<Stamp>>,
    /// As it was found last.
    seen: Option<Vec<Stamp>>,
}

impl Settling {
    /// Whether what is found is to be read now.
    fn settled(&mut self, found: Vec<Stamp>) -> bool {
        let found = Some(found);
        if found == self.read {
            self.seen = found;
            return false;
        }
        let is_settled = found == self.seen;
        if is_settled {
            self.read.clone_from(&found);
        }
        self.seen = found;
        is_settled
    }
}

#[cfg(test)]
mod tests {
    use registry_core::{Algorithm, Hasher};

    use super::*;

    #[test]
    fn what_is_found_twice_is_read_once() {
        let stamp = |text: &str| Some(Hasher::digest_of(Algorithm::Sha256, text.as_bytes()));
        let (one, half, two) = (stamp("one"), stamp("tw"), stamp("two"));
        let mut settling = Settling::default();
        for (found, is_read) in [
            (one, false),
            (one, true),
            (one, false),
            // Being written.
            (half, false),
            (two, false),
            (two, true),
            (two, false),
            // Changed for a moment, and put back.
            (one, false),
            (two, false),
            (two, false),
            // Taken away.
            (None, false),
            (None, true),
            (None, false),
            (two, false),
            (two, true),
        ] {
            assert_eq!(settling.settled(vec![found]), is_read);
        }
    }
}
