//! Images as lines of a table.

use registry_server::api::Image;

use super::screen::{GOOD, ODD, Screen, paint};
use super::table::{Side, Table};
use super::words::{ago_or_never, short, size};

/// Images as a table.
pub(super) fn table(images: &[Image], screen: &Screen) -> String {
    let mut table = Table::new([
        ("IMAGE", Side::Left),
        ("DIGEST", Side::Left),
        ("PLATFORMS", Side::Left),
        ("SIZE", Side::Right),
        ("OWN", Side::Right),
        ("FETCHED", Side::Right),
        ("LAST PULL", Side::Right),
        ("", Side::Left),
    ]);
    for image in images {
        let name = match &image.tag {
            Some(_) => image.name.clone(),
            None => format!("{}/{}@…", image.upstream, image.repository),
        };
        table.row([
            name,
            short(&image.digest).to_owned(),
            platforms(&image.platforms),
            size(image.bytes),
            size(image.own_bytes),
            ago_or_never(image.fetched_at, screen.now()),
            ago_or_never(image.accessed_at, screen.now()),
            marks(image),
        ]);
    }
    table.render(screen.width())
}

/// Platforms, as many as a line has room for.
fn platforms(platforms: &[String]) -> String {
    /// More of them are counted.
    const NAMED_MAX: usize = 2;
    match platforms {
        [] => "-".to_owned(),
        _ if platforms.len() <= NAMED_MAX => platforms.join(","),
        [first, rest @ ..] => format!("{first} +{}", rest.len()),
    }
}

fn marks(image: &Image) -> String {
    let mut marks = Vec::new();
    if image.pinned {
        marks.push(paint(GOOD, "pinned"));
    }
    if !image.complete {
        marks.push(paint(ODD, "incomplete"));
    }
    if image.truncated {
        marks.push(paint(ODD, "not looked at whole"));
    }
    marks.join(" ")
}
