use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

/// Sends a request and returns the answer's status and document.
async fn send(server: &TokenServer, head: &str, body: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(server.state.address).await.unwrap();
    let length = body.len();
    let request = format!(
        "{head}\r\nHost: tokens\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap())
}

/// As [`send`], by GET with these credentials.
async fn get(server: &TokenServer, scope: &str, basic: Option<&str>) -> (u16, Value) {
    let service = TokenServer::SERVICE;
    let authorization = basic.map(|encoded| format!("\r\nAuthorization: Basic {encoded}"));
    let head = format!(
        "GET /token?service={service}&scope={scope} HTTP/1.1{}",
        authorization.unwrap_or_default()
    );
    send(server, &head, "").await
}

async fn post(server: &TokenServer, form: &str) -> (u16, Value) {
    let service = TokenServer::SERVICE;
    let form = format!("service={service}&client_id=test&{form}");
    send(server, "POST /token HTTP/1.1", &form).await
}

async fn start() -> TokenServer {
    let server = TokenServer::start(None).await;
    server.allow("ann", "pass word", "org/app", &["pull"]);
    server.allow_anonymous("public", &["pull"]);
    server
}

/// `ann:pass word`
const ANN: &str = "YW5uOnBhc3Mgd29yZA==";

#[tokio::test]
async fn a_token_grants_what_its_account_may_do() {
    let server = start().await;
    for (scope, basic, account, granted) in [
        (
            "repository:org/app:pull",
            Some(ANN),
            Some("ann"),
            vec!["pull"],
        ),
        (
            "repository:org/app:pull,push",
            Some(ANN),
            Some("ann"),
            vec!["pull"],
        ),
        ("repository:org/other:pull", Some(ANN), Some("ann"), vec![]),
        ("repository:org/app:pull", None, None, vec![]),
        ("repository:public:pull", None, None, vec!["pull"]),
    ] {
        let (status, document) = get(&server, scope, basic).await;
        assert_eq!(status, 200, "{scope}");
        assert_eq!(document["expires_in"], LIFE_SECONDS, "{scope}");
        let request = server.requests().pop().unwrap();
        assert_eq!(request.asked, Access::parse(scope), "{scope}");
        assert_eq!(request.account.as_deref(), account, "{scope}");
        assert_eq!(request.granted, granted, "{scope}");
        assert_eq!(document["token"].as_str(), request.token.as_deref());
    }
}

#[tokio::test]
async fn tokens_are_given_by_post_too() {
    let server = start().await;
    server.expire_in(77);
    server.refuse_get();
    assert_eq!(get(&server, "repository:org/app:pull", None).await.0, 405);
    let refresh = server.refresh_token("ann");
    for grant in [
        "grant_type=password&username=ann&password=pass+word".to_owned(),
        format!("grant_type=refresh_token&refresh_token={refresh}"),
    ] {
        let form = format!("{grant}&scope=repository%3Aorg%2Fapp%3Apull");
        let (status, document) = post(&server, &form).await;
        assert_eq!(status, 200, "{grant}");
        assert_eq!(document["expires_in"], 77, "{grant}");
        let request = server.requests().pop().unwrap();
        assert_eq!(request.account.as_deref(), Some("ann"), "{grant}");
        assert_eq!(document["access_token"].as_str(), request.token.as_deref());
        assert!(document.get("token").is_none(), "{grant}");
    }
}

#[tokio::test]
async fn what_is_wrong_gets_no_token() {
    let server = start().await;
    let scope = "repository:org/app:pull";
    let two = "repository:org/app:pull%20repository:public:pull";
    let (wrong, garbage) = (Some("YW5uOndyb25n"), Some("%"));
    assert_eq!(get(&server, scope, wrong).await.0, 401);
    assert_eq!(get(&server, scope, garbage).await.0, 401);
    assert_eq!(get(&server, two, Some(ANN)).await.0, 400);
    assert_eq!(get(&server, "nonsense", Some(ANN)).await.0, 400);
    assert_eq!(
        post(&server, "grant_type=refresh_token&refresh_token=x")
            .await
            .0,
        401
    );
    assert_eq!(
        post(&server, "username=ann&password=pass+word").await.0,
        401
    );
    assert_eq!(send(&server, "GET /token HTTP/1.1", "").await.0, 400);
    assert_eq!(send(&server, "PUT /token HTTP/1.1", "").await.0, 405);
    server.revoke("ann");
    assert_eq!(get(&server, scope, Some(ANN)).await.0, 401);
    assert!(
        server
            .requests()
            .iter()
            .all(|request| request.token.is_none())
    );
    assert_eq!(send(&server, "GET /elsewhere HTTP/1.1", "").await.0, 404);
}
