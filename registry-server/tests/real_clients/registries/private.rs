//! Registries that ask who is there, over TLS with an authority of their own.

use std::fs;

use http::Method;
use registry_server::testing::{FixtureTls, Secrets, TokenRequest, TokenServer};
use serde_json::json;

use super::are_met;
use super::show::{Show, Stage, UPSTREAM};
use super::tapped::TappedMirror;
use crate::containers_image::{Skopeo, Way};
use crate::origin::{Origin, OriginOptions};
use crate::site::{Published, Site};
use crate::workshop::{Workshop, command};

pub(super) const HTPASSWD: &str = "htpasswd";

/// May push; the mirror is not told.
pub(super) const PUBLISHER: (&str, &str) = ("publisher", "pub-8c1f9e");
/// May pull. The password has what has to be encoded in a URL and in a form.
pub(super) const READER: (&str, &str) = ("mirror", "p&ss+word%2F=7d20");

#[test]
fn a_registry_with_htpasswd() {
    if !are_met("htpasswd", &[HTPASSWD]) {
        return;
    }
    let stage = Stage::new();
    let tls = FixtureTls::generate();
    let options = OriginOptions {
        tls: Some(&tls),
        auth: Some(htpasswd(&stage.workshop)),
        publisher: Some(PUBLISHER),
        ..OriginOptions::default()
    };
    let origin = Origin::start_with(&stage.workshop, "private", &options);
    let images = stage.publish(&[&origin]);
    let configuration = configuration(&stage, &tls, &origin);
    let host = origin.address.to_string();
    let show = Show::open(stage, &configuration, images).trusting(&[&host]);
    show.play(|| origin.stop());
    Secrets::account(READER.0, READER.1).assert_only_at(&show.mirror.log, &[&host]);
    show.finish();
}

#[test]
fn a_registry_with_a_token_server() {
    if !are_met("auth: token", &[]) {
        return;
    }
    let TokenScene {
        stage,
        tls,
        tokens,
        origin,
        images,
    } = TokenScene::start();
    let configuration = configuration(&stage, &tls, &origin);
    let host = origin.address.to_string();
    let show = Show::open(stage, &configuration, images.clone());
    let show = show.trusting(&[&host, &tokens.host()]);
    let pushed = tokens.requests().len();
    show.play(|| origin.stop());

    // One token for each repository, in our name, to pull from it and no more.
    let requests = tokens.requests().split_off(pushed);
    let asked = requests.iter().map(|request| {
        assert_eq!(request.status, 200, "{request:?}");
        assert_eq!(request.account.as_deref(), Some(READER.0), "{request:?}");
        let access = request.asked.as_ref().expect("a token for a repository");
        access.to_string()
    });
    let mut asked: Vec<_> = asked.collect();
    asked.sort();
    let scopes = images.iter().map(scope_of);
    let mut expected: Vec<_> = scopes.collect();
    expected.sort();
    assert_eq!(asked, expected);

    let log = &show.mirror.log;
    Secrets::account(READER.0, READER.1).assert_only_at(log, &[&tokens.host()]);
    tokens_in(&requests).assert_only_at(log, &[&host]);
    show.finish();
}

/// What a mirror is told of a private registry, which has [`READER`]'s image `team/tool`.
struct Told<'a> {
    name: &'a str,
    /// In the table of the upstream.
    settings: String,
    /// What the image is called below the endpoint.
    repository: &'static str,
    /// Not to be sent anywhere but to the token server.
    secret: Secrets,
}

#[test]
fn other_ways_to_a_token() {
    if !are_met("auth: token", &[]) {
        return;
    }
    let TokenScene {
        stage,
        tls,
        tokens,
        origin,
        images,
    } = TokenScene::start();
    tokens.refuse_get();
    let (ca_file, url) = (stage.write_ca(&tls), origin.url());
    let password = credentials(&stage);
    let password =
        |path| format!("endpoints = [\"{url}{path}\"]\nca_file = {ca_file:?}\n{password}");
    let refresh = tokens.refresh_token(READER.0);
    let login = json!({"auths": {origin.address.to_string(): {"identitytoken": refresh}}});
    let docker_config = stage.workshop.path("config.json");
    fs::write(&docker_config, login.to_string()).expect("write a login");
    let account = || Secrets::account(READER.0, READER.1);
    let ways = [
        Told {
            name: "by-post",
            settings: password(""),
            repository: "team/tool",
            secret: account(),
        },
        Told {
            name: "below-a-path",
            settings: password("/v2/team"),
            repository: "tool",
            secret: account(),
        },
        Told {
            name: "by-docker-login",
            settings: format!(
                "endpoints = [{url:?}]\nca_file = {ca_file:?}\ndocker_config = {docker_config:?}\n"
            ),
            repository: "team/tool",
            secret: Secrets::default().token(&refresh),
        },
    ];

    let Stage {
        runtime,
        mut workshop,
    } = stage;
    for told in ways {
        let begun = tokens.requests().len();
        let configuration = format!("[upstream.\"{UPSTREAM}\"]\n{}", told.settings);
        let mirror = TappedMirror::start(&runtime, &workshop, told.name, &configuration);
        let site = Site::new(workshop, mirror.address, &format!("site-{}", told.name));
        let image = Published {
            repository: told.repository,
            ..images[1].clone()
        };
        let skopeo = Skopeo::start(&site, Way::Configured, told.name);
        site.pull(&skopeo, &image);

        let requests = tokens.requests().split_off(begun);
        let given: Vec<_> = requests.iter().filter(|r| r.status == 200).collect();
        let [given] = given.as_slice() else {
            panic!("{}: one token: {requests:?}", told.name);
        };
        assert_eq!(given.method, Method::POST, "{}", told.name);
        assert_eq!(given.account.as_deref(), Some(READER.0), "{}", told.name);
        let asked = given.asked.as_ref().map(ToString::to_string);
        assert_eq!(asked, Some(scope_of(&images[1])), "{}", told.name);
        told.secret.assert_only_at(&mirror.log, &[&tokens.host()]);
        tokens_in(&requests).assert_only_at(&mirror.log, &[&origin.address.to_string()]);
        mirror.stop(&runtime);
        workshop = site.workshop;
    }
    origin.stop();
    workshop.close();
}

/// A registry over TLS that takes the tokens of a server over TLS.
struct TokenScene {
    stage: Stage,
    tls: FixtureTls,
    tokens: TokenServer,
    origin: Origin,
    images: Vec<Published>,
}

impl TokenScene {
    #[track_caller]
    fn start() -> Self {
        let stage = Stage::new();
        let tls = FixtureTls::generate();
        let pull: (_, _, &[&str]) = (READER.0, READER.1, &["pull"]);
        let push: (_, _, &[&str]) = (PUBLISHER.0, PUBLISHER.1, &["pull", "push"]);
        let tokens = stage.token_server(TokenServer::start(Some(&tls)), &[pull, push]);
        let options = OriginOptions {
            tls: Some(&tls),
            auth: Some(stage.token_auth(&tokens)),
            publisher: Some(PUBLISHER),
            ..OriginOptions::default()
        };
        let origin = Origin::start_with(&stage.workshop, "private", &options);
        let images = stage.publish(&[&origin]);
        Self {
            stage,
            tls,
            tokens,
            origin,
            images,
        }
    }
}

fn scope_of(published: &Published) -> String {
    format!("repository:{}:pull", published.repository)
}

/// All tokens that were given.
pub(super) fn tokens_in(requests: &[TokenRequest]) -> Secrets {
    let tokens = requests
        .iter()
        .filter_map(|request| request.token.as_deref());
    tokens.fold(Secrets::default(), Secrets::token)
}

/// The section `auth` of a registry with these two accounts.
pub(super) fn htpasswd(workshop: &Workshop) -> String {
    let lines = [PUBLISHER, READER].map(|(name, password)| {
        let mut htpasswd = command(HTPASSWD);
        // Bcrypt, which is all that a registry takes, at its lowest cost.
        htpasswd.args(["-n", "-b", "-B", "-C", "4", name, password]);
        workshop.run_for_text("htpasswd", htpasswd)
    });
    let path = workshop.path("htpasswd");
    fs::write(&path, lines.join("\n")).expect("write the accounts");
    format!("{{htpasswd: {{realm: private, path: {path:?}}}}}")
}

/// The mirror's configuration, with [`READER`]'s password in a file.
fn configuration(stage: &Stage, tls: &FixtureTls, origin: &Origin) -> String {
    format!(
        "[upstream.\"{UPSTREAM}\"]\nendpoints = [{url:?}]\nca_file = {ca_file:?}\n{credentials}",
        url = origin.url(),
        ca_file = stage.write_ca(tls),
        credentials = credentials(stage),
    )
}

/// [`READER`]'s, in the table of an upstream.
fn credentials(stage: &Stage) -> String {
    let (username, password) = READER;
    let file = stage.workshop.path("password");
    fs::write(&file, format!("{password}\n")).expect("write the password");
    format!("username = {username:?}\npassword_file = {file:?}\n")
}
