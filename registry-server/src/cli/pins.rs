//! `pin`, `unpin` and `pins`: what is kept whatever happens.

use registry_server::api::{Page, PinRequest, Pinned};

use super::Session;
use super::failure::{Exit, Failure};
use super::screen::{GOOD, Screen, paint};
use super::table::{Side, Table};
use super::words::ago;

pub(super) async fn list(session: &Session) -> Result<Exit, Failure> {
    let screen = &session.screen;
    let pins: Page<Pinned> = session.client.get("pins", &[]).await?;
    screen.show(&pins, |pins| text(&pins.items, screen))?;
    Ok(Exit::Done)
}

fn text(pins: &[Pinned], screen: &Screen) -> String {
    if pins.is_empty() {
        screen.remark("nothing is pinned");
        return String::new();
    }
    let mut table = Table::new([("PIN", Side::Left), ("SINCE", Side::Right)]);
    for pin in pins {
        table.row([pin.pin.clone(), ago(pin.since, screen.now())]);
    }
    table.render(screen.width())
}

pub(super) async fn pin(session: &Session, names: &[String]) -> Result<Exit, Failure> {
    let mut pinned = Vec::new();
    let mut failures = Vec::new();
    for name in names {
        let request = PinRequest { pin: name.clone() };
        match session.client.post::<Pinned>("pins", &request).await {
            Ok(pin) => pinned.push(pin),
            Err(failure) => failures.push((name, failure)),
        }
    }
    told(session, "pinned", pinned, failures)
}

pub(super) async fn unpin(session: &Session, names: &[String]) -> Result<Exit, Failure> {
    let mut unpinned = Vec::new();
    let mut failures = Vec::new();
    for name in names {
        let query = [("pin", name.as_str())];
        match session.client.delete::<Pinned>("pins", &query).await {
            Ok(pin) => unpinned.push(pin),
            Err(failure) => failures.push((name, failure)),
        }
    }
    told(session, "unpinned", unpinned, failures)
}

fn told(
    session: &Session,
    done: &str,
    pins: Vec<Pinned>,
    failures: Vec<(&String, Failure)>,
) -> Result<Exit, Failure> {
    let page = Page {
        items: pins,
        next: None,
    };
    session.screen.show(&page, |page| {
        let line = |it: &Pinned| format!("{} {}\n", paint(GOOD, done), it.pin);
        page.items.iter().map(line).collect()
    })?;
    session.screen.settle(page.items.len(), failures)
}
