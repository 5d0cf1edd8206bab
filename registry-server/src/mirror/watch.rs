//! Notices that the files of the configuration have changed: whatever was done to them, edited in
//! place, replaced, taken away, or led elsewhere by a link, as Kubernetes does.

use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::reload::ReloadHandle;
use crate::files::{LOOK_INTERVAL, Settling};

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
