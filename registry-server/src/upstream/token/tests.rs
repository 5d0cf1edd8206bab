use std::sync::atomic::{AtomicU32, Ordering};

use futures::future::{FutureExt as _, join_all};
use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;
use tokio::task::yield_now;

use super::*;
use crate::upstream::challenge::Challenge;

fn parse(json: &str) -> Option<(String, u64)> {
    let issued = Issued::parse(&Bytes::copy_from_slice(json.as_bytes()))?;
    let header = issued.token.header();
    Some((header.to_str().unwrap().to_owned(), issued.life.as_secs()))
}

#[test]
fn answers_of_token_servers_are_read() {
    for (json, token, life) in [
        (r#"{"token":"t","expires_in":300}"#, "Bearer t", 300),
        (r#"{"access_token":"t"}"#, "Bearer t", 60),
        (
            r#"{"token":"t","access_token":"u","expires_in":61.5}"#,
            "Bearer t",
            61,
        ),
        (r#"{"token":"","access_token":"u"}"#, "Bearer u", 60),
        (r#"{"token":"t","refresh_token":"r"}"#, "Bearer t", 60),
        (r#"{"token":"t","expires_in":5}"#, "Bearer t", 60),
        (r#"{"token":"t","expires_in":-1}"#, "Bearer t", 60),
        (r#"{"token":"t","expires_in":1e300}"#, "Bearer t", 60),
        (r#"{"token":"t","expires_in":999999999}"#, "Bearer t", 3600),
    ] {
        assert_eq!(parse(json), Some((token.to_owned(), life)), "{json}");
    }
    for json in [
        "",
        "{}",
        "[]",
        r#"{"token":""}"#,
        r#"{"token":7}"#,
        r#"{"token":"a\nb"}"#,
        r#"{"token":"t","expires_in":"soon"}"#,
    ] {
        assert_eq!(parse(json), None, "{json}");
    }
}

fn key(number: usize) -> Key {
    (0, Repository::parse(&format!("app{number}")).unwrap())
}

fn asked() -> Asked {
    let line = r#"Bearer realm="https://a.example/token""#;
    let headers = HeaderMap::from_iter([(WWW_AUTHENTICATE, line.parse().unwrap())]);
    let Some(Challenge::Bearer(bearer)) = Challenge::find(&headers, &key(0).1) else {
        panic!("it is a challenge");
    };
    Asked {
        bearer,
        reach: Reach::Public,
        credential: None,
    }
}

/// Issues `t0`, `t1`, … for five minutes each, or nothing.
#[derive(Clone, Default)]
struct Server {
    asked: Arc<AtomicU32>,
    is_down: bool,
}

impl Server {
    fn fetch(&self) -> impl FnOnce(Asked) -> Fetching + use<> {
        let server = self.clone();
        move |asked| {
            async move {
                let number = server.asked.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(1)).await;
                if server.is_down {
                    return Err(UpstreamError::Timeout { what: "answer" });
                }
                let json = format!(r#"{{"token":"t{number}","expires_in":300}}"#);
                Ok((asked, Issued::parse(&json.into()).unwrap()))
            }
            .boxed()
        }
    }

    async fn answer(
        &self,
        tokens: &Tokens,
        rejected: Option<&Authorization>,
    ) -> Result<Authorization, UpstreamError> {
        let key = key(0);
        let answer = tokens.answer(&key, asked(), rejected, self.fetch());
        answer.await.map(|granted| granted.token)
    }

    async fn known(&self, tokens: &Tokens) -> Result<Option<Authorization>, UpstreamError> {
        let known = tokens.known(&key(0), self.fetch()).await?;
        Ok(known.map(|granted| granted.token))
    }

    fn count(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }
}

/// The number of the token.
fn number(token: &Authorization) -> String {
    let header = token.header();
    header.to_str().unwrap().replace("Bearer t", "")
}

#[tokio::test(start_paused = true)]
async fn one_token_for_all_who_wait_and_for_as_long_as_it_lives() {
    let (tokens, server) = (Tokens::default(), Server::default());
    assert!(server.known(&tokens).await.unwrap().is_none());
    let answers = join_all((0..8).map(|_| server.answer(&tokens, None))).await;
    for answer in &answers {
        assert_eq!(number(answer.as_ref().unwrap()), "0");
    }
    tokio::time::advance(Duration::from_millis(269_990)).await;
    let known = server.known(&tokens).await.unwrap().unwrap();
    assert_eq!((number(&known).as_str(), server.count()), ("0", 1));
    // Nobody uses it while it could be renewed ahead: the next who does waits.
    tokio::time::advance(Duration::from_secs(21)).await;
    let known = server.known(&tokens).await.unwrap().unwrap();
    assert_eq!((number(&known).as_str(), server.count()), ("1", 2));
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_ahead_and_nobody_waits_for_that() {
    let (tokens, server) = (Tokens::default(), Server::default());
    server.answer(&tokens, None).await.unwrap();
    tokio::time::advance(Duration::from_secs(270)).await;
    for _ in 0..8 {
        let known = server.known(&tokens).now_or_never().expect("at once");
        assert_eq!(number(&known.unwrap().unwrap()), "0");
        yield_now().await;
    }
    assert_eq!(server.count(), 2, "one renewal for all");
    tokio::time::sleep(Duration::from_millis(2)).await;
    let known = server.known(&tokens).now_or_never().expect("at once");
    assert_eq!(number(&known.unwrap().unwrap()), "1");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_cannot_be_renewed_ahead_is_used_to_its_end() {
    let (tokens, mut server) = (Tokens::default(), Server::default());
    server.answer(&tokens, None).await.unwrap();
    server.is_down = true;
    tokio::time::advance(Duration::from_secs(289)).await;
    let known = server.known(&tokens).await.unwrap().unwrap();
    assert_eq!(number(&known), "0");
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert_eq!(server.count(), 2);
    let known = server.known(&tokens).await.unwrap().unwrap();
    assert_eq!(number(&known), "0", "it is valid still");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_cannot_be_renewed_ahead_is_not_tried_to_be_with_every_question() {
    let (tokens, mut server) = (Tokens::default(), Server::default());
    server.answer(&tokens, None).await.unwrap();
    server.is_down = true;
    tokio::time::advance(Duration::from_secs(270)).await;
    for _ in 0..400 {
        server.known(&tokens).await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    // Sixteen seconds, in each five of which it is tried once.
    assert_eq!(server.count(), 1 + 4);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_was_rejected_is_replaced_once_for_all() {
    let (tokens, server) = (Tokens::default(), Server::default());
    let old = server.answer(&tokens, None).await.unwrap();
    let answers = join_all((0..8).map(|_| server.answer(&tokens, Some(&old)))).await;
    for answer in answers {
        assert_eq!(number(&answer.unwrap()), "1");
    }
    assert_eq!(server.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_was_got_with_another_credential_answers_nothing() {
    let (tokens, server) = (Tokens::default(), Server::default());
    server.answer(&tokens, None).await.unwrap();
    let asked = Asked {
        credential: Some(Credential::IdentityToken("t".into())),
        ..asked()
    };
    let answer = tokens.answer(&key(0), asked, None, server.fetch()).await;
    assert_eq!(number(&answer.unwrap().token), "1");
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_shared_by_who_waited_and_remembered_for_nobody() {
    let (tokens, mut server) = (Tokens::default(), Server::default());
    server.is_down = true;
    let answers = join_all((0..8).map(|_| server.answer(&tokens, None))).await;
    assert!(answers.iter().all(Result::is_err));
    assert_eq!(server.count(), 1);
    server.is_down = false;
    let answer = server.answer(&tokens, None).await.unwrap();
    assert_eq!(number(&answer), "1");
}

#[tokio::test(start_paused = true)]
async fn a_failed_renewal_leaves_no_token_behind() {
    let (tokens, mut server) = (Tokens::default(), Server::default());
    server.answer(&tokens, None).await.unwrap();
    tokio::time::advance(Duration::from_secs(300)).await;
    server.is_down = true;
    assert!(server.known(&tokens).await.is_err());
    assert!(server.known(&tokens).await.unwrap().is_none());
    assert_eq!(server.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn whoever_leaves_keeps_nobody_waiting() {
    let (tokens, server) = (Tokens::default(), Server::default());
    let mut leaving = Box::pin(server.answer(&tokens, None));
    assert!(futures::poll!(&mut leaving).is_pending());
    drop(leaving);
    let answer = server.answer(&tokens, None).await.unwrap();
    assert_eq!(number(&answer), "1");
}

#[tokio::test(start_paused = true)]
async fn the_table_is_bounded() {
    let (tokens, server) = (Tokens::default(), Server::default());
    for number in 0..=TOKENS_MAX {
        let key = key(number);
        let answer = tokens.answer(&key, asked(), None, server.fetch());
        answer.await.unwrap();
        assert!(tokens.slots().len() <= TOKENS_MAX);
    }
}
