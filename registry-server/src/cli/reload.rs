//! `reload`: the configuration, read again.

use registry_server::api::Reloaded;

use super::Session;
use super::failure::{Exit, Failure};
use super::screen::{DIM, GOOD, ODD, paint};

pub(super) async fn reload(session: &Session) -> Result<Exit, Failure> {
    let reloaded = session.client.order("reload").await?;
    session.screen.show(&reloaded, text)?;
    Ok(Exit::Done)
}

fn text(reloaded: &Reloaded) -> String {
    let mut text = String::new();
    for change in &reloaded.changed {
        text += &format!("{} {change}\n", paint(GOOD, "changed"));
    }
    for change in &reloaded.needs_restart {
        text += &format!("{} {change}\n", paint(ODD, "needs a restart"));
    }
    if text.is_empty() {
        text = format!("{}\n", paint(DIM, "nothing has changed"));
    }
    text
}
