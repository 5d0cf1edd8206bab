//! `ls`: what is cached.

use std::cmp::Reverse;

use registry_server::api::{Image, Page, Repository};

use super::Session;
use super::failure::{Exit, Failure};
use super::image;
use super::line::{Ls, Sort};
use super::names::{Names, names_one};
use super::screen::Screen;
use super::table::{Side, Table};
use super::words::{count, size};

pub(super) async fn list(session: &Session, ls: &Ls) -> Result<Exit, Failure> {
    let Some(what) = &ls.what else {
        return match ls.all {
            true => images(session, ls, &[]).await,
            false => repositories(session, ls, &[]).await,
        };
    };
    let names = Names::ask(session).await?;
    if let Some(upstream) = names.upstream(what) {
        let query = [("upstream", upstream.as_str())];
        return match ls.all {
            true => images(session, ls, &query).await,
            false => repositories(session, ls, &query).await,
        };
    }
    if names_one(what) {
        let name = names.image(what)?.to_string();
        let mut image: Image = session.client.get("image", &[("name", &name)]).await?;
        image.manifests.clear();
        return show_images(session, ls, vec![image]);
    }
    let origin = names.repository(what)?;
    let (upstream, repository) = (origin.upstream().as_str(), origin.repository().as_str());
    images(
        session,
        ls,
        &[("upstream", upstream), ("repository", repository)],
    )
    .await
}

async fn repositories(session: &Session, ls: &Ls, query: &[(&str, &str)]) -> Result<Exit, Failure> {
    if ls.sort == Sort::Age {
        let problem = "repositories have no age, and images have: ls --all --sort age";
        return Err(Failure::Usage(problem.to_owned()));
    }
    let mut page: Page<Repository> = session.client.pages("repositories", query).await?;
    if ls.sort == Sort::Size {
        page.items.sort_by_key(|it| Reverse(it.bytes));
    }
    let screen = &session.screen;
    screen.show(&page, |page| repositories_text(&page.items, screen))?;
    ended(session, ls, page.items.is_empty())
}

fn repositories_text(repositories: &[Repository], screen: &Screen) -> String {
    if repositories.is_empty() {
        return String::new();
    }
    let mut table = Table::new([
        ("REPOSITORY", Side::Left),
        ("TAGS", Side::Right),
        ("SIZE", Side::Right),
    ]);
    for it in repositories {
        table.row([
            format!("{}/{}", it.upstream, it.repository),
            count(it.tags),
            size(it.bytes),
        ]);
    }
    table.render(screen.width())
}

async fn images(session: &Session, ls: &Ls, query: &[(&str, &str)]) -> Result<Exit, Failure> {
    let page: Page<Image> = session.client.pages("images", query).await?;
    show_images(session, ls, page.items)
}

fn show_images(session: &Session, ls: &Ls, mut images: Vec<Image>) -> Result<Exit, Failure> {
    match ls.sort {
        Sort::Name => {}
        Sort::Size => images.sort_by_key(|it| Reverse(it.bytes)),
        Sort::Age => images.sort_by_key(|it| it.accessed_at.or(it.fetched_at)),
    }
    let page = Page {
        items: images,
        next: None,
    };
    let screen = &session.screen;
    screen.show(&page, |page| match page.items.is_empty() {
        true => String::new(),
        false => image::table(&page.items, screen),
    })?;
    ended(session, ls, page.items.is_empty())
}

/// That nothing is cached is worth a word, and of what was asked for by name, a failure.
fn ended(session: &Session, ls: &Ls, is_empty: bool) -> Result<Exit, Failure> {
    match &ls.what {
        Some(what) if is_empty => Err(Failure::NotFound(format!(
            "nothing of {what} is cached; `registry-server why {what}` tells what is known of it"
        ))),
        None if is_empty => {
            session.screen.remark("nothing is cached yet");
            Ok(Exit::Done)
        }
        _ => Ok(Exit::Done),
    }
}
