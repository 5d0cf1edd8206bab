use http::HeaderValue;
use proptest::prelude::*;

use super::*;

fn repository() -> Repository {
    Repository::parse("library/app").unwrap()
}

fn find(lines: &[&str]) -> Option<Challenge> {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(line).unwrap());
    }
    Challenge::find(&headers, &repository())
}

fn bearer(lines: &[&str]) -> Bearer {
    match find(lines) {
        Some(Challenge::Bearer(bearer)) => bearer,
        other => panic!("{lines:?}: {other:?}"),
    }
}

const HUB: &str = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io""#;

#[test]
fn the_bearer_challenge_is_found_however_it_is_written() {
    let hub = ("https://auth.docker.io/token", Some("registry.docker.io"));
    let before = |text: &str| format!("{text}, {HUB}");
    let after = |text: &str| format!("{HUB}, {text}");
    for (lines, expected) in [
        (
            &[concat!(
                r#"Bearer realm="https://auth.docker.io/token","#,
                r#"service="registry.docker.io",scope="repository:library/app:pull""#
            )][..],
            hub,
        ),
        (
            &[r#"bearer SERVICE=registry.docker.io, Realm="https://auth.docker.io/token""#],
            hub,
        ),
        (&[&before(r#"Basic realm="a, Bearer realm=b""#)], hub),
        (&[&after(r#"Basic realm="a, Bearer realm=b""#)], hub),
        (&[r#"Basic realm="x""#, HUB], hub),
        (&[HUB, r#"Basic realm="x""#], hub),
        // RFC 9110, section 11.3: the kind that the parser does not know.
        (&[&before("Negotiate abcdef==")], hub),
        (&[&after("Negotiate abcdef==")], hub),
        (&[&before("NTLM")], hub),
        (
            &[&before(
                r#"Digest realm="x", nonce=abc, qop="auth,auth-int""#,
            )],
            hub,
        ),
        (&[&before("=,=;(")], hub),
        (&[&before(r#"Bearer realm="no URL""#)], hub),
        (
            &["\u{1}", HUB].map(|line| line.trim_matches('\u{1}'))[..],
            hub,
        ),
        (&[&HUB.replace("Bearer ", "BEARER \t  ")], hub),
        (&[&HUB.replace(',', " ,\t")], hub),
        (
            &[&after(
                r#"error="invalid_token",error_description="a, \"b\"""#,
            )],
            hub,
        ),
        (&[&after(r#"error="insufficient_scope""#)], hub),
        (
            &[r#"Bearer realm="https://nvcr.io/proxy_auth",scope="""#],
            ("https://nvcr.io/proxy_auth", None),
        ),
        (
            &[r#"Bearer realm="https://a.example/t\"x",service="a,b=\"c""#],
            ("https://a.example/t%22x", Some("a,b=\"c")),
        ),
    ] {
        let bearer = bearer(lines);
        let service = bearer.service.as_deref();
        assert_eq!((bearer.realm.as_str(), service), expected, "{lines:?}");
    }
}

#[test]
fn a_password_is_the_second_choice() {
    for lines in [
        &[r#"Basic realm="x""#][..],
        &["basic"],
        &[r#"BASIC  realm="x", charset="UTF-8""#],
        &["Negotiate abc==, Basic realm=x"],
        &[r#"Bearer realm="no URL", Basic realm="x""#],
        &["Negotiate", r#"Basic realm="x""#],
    ] {
        assert_eq!(find(lines), Some(Challenge::Basic), "{lines:?}");
    }
}

#[test]
fn what_is_no_challenge_of_ours_is_none() {
    for lines in [
        &[][..],
        &[""],
        &["Bearer"],
        &["Basically"],
        &[r#"Digest realm="Basic realm=x""#],
        &[r#"Digest realm=", Basic realm=x, ""#],
        &["Bearer service=\"a\""],
        &["Bearer realm=\"not a URL\""],
        &["Bearer realm=\"https://a.example/"],
        &["=,=,="],
    ] {
        assert_eq!(find(lines), None, "{lines:?}");
    }
    // However long: no more than so many places are looked at.
    let long = format!("{}{HUB}", "x,".repeat(CHALLENGE_STARTS_MAX));
    assert_eq!(find(&[&long]), None);
    // Nor are there more for lying on many lines, or in one that is huge.
    let lines = ["x,x,x,x"; CHALLENGE_STARTS_MAX / 4];
    assert_eq!(find(&[&lines[..], &[HUB]].concat()), None);
    assert!(find(&[&lines[1..], &[HUB]].concat()).is_some());
    let huge = format!("{HUB}, {}", "x".repeat(CHALLENGE_LINE_BYTES_MAX));
    assert_eq!(find(&[&huge]), None);
    assert!(find(&[&huge, HUB]).is_some());
}

#[test]
fn one_repository_is_asked_for_as_the_registry_calls_it() {
    for (challenged, wanted) in [
        ("", &["repository:library/app:pull"][..]),
        (
            "repository:library/app:pull",
            &["repository:library/app:pull"],
        ),
        (
            "repository:library/app:pull,push",
            &["repository:library/app:pull"],
        ),
        ("repository:library/app:*", &["repository:library/app:pull"]),
        (
            "repository:user/image:pull",
            &["repository:library/app:pull"],
        ),
        (
            "repository:hub/library/app:pull",
            &["repository:hub/library/app:pull"],
        ),
        (
            "repository:registry.test:5000/library/app:pull",
            &["repository:registry.test:5000/library/app:pull"],
        ),
        (
            "repository:otherlibrary/app:pull",
            &["repository:library/app:pull"],
        ),
        ("repository:app:pull", &["repository:library/app:pull"]),
        ("repository:", &["repository:library/app:pull"]),
        ("registry:catalog:*", &["repository:library/app:pull"]),
        ("aws", &["repository:library/app:pull", "aws"]),
        (
            "aws repository:hub/library/app:pull,push",
            &["repository:hub/library/app:pull", "aws"],
        ),
        (
            "a b c d e f",
            &["repository:library/app:pull", "a", "b", "c", "d"],
        ),
    ] {
        assert_eq!(scopes(challenged, &repository()), wanted, "{challenged:?}");
    }
    let long = "x".repeat(SCOPE_BYTES_MAX + 1);
    assert_eq!(scopes(&long, &repository()).len(), 1);
}

#[test]
fn the_realm_keeps_its_query() {
    let bearer = bearer(&[r#"Bearer realm="https://a.example/t/?x=1#y",service="a b",scope=aws"#]);
    assert_eq!(
        bearer.url().as_str(),
        "https://a.example/t/?x=1&service=a+b&scope=repository%3Alibrary%2Fapp%3Apull&scope=aws"
    );
    assert_eq!(bearer.post_url().as_str(), "https://a.example/t/?x=1");
}

#[test]
fn forms_are_as_the_specification_writes_them() {
    let bearer = bearer(&[HUB]);
    let rest = "&service=registry.docker.io&client_id=registry-server\
                &scope=repository%3Alibrary%2Fapp%3Apull";
    let password = Grant::Password {
        username: "me",
        password: &"a&b=c".into(),
    };
    let token = Grant::RefreshToken(&"t".into());
    for (grant, begin) in [
        (
            password,
            "grant_type=password&username=me&password=a%26b%3Dc",
        ),
        (token, "grant_type=refresh_token&refresh_token=t"),
    ] {
        assert_eq!(*bearer.form(&grant), format!("{begin}{rest}"));
    }
}

/// Parts of challenges, and of what is none.
fn part() -> impl Strategy<Value = String> {
    prop_oneof![
        "(Bearer|bearer|Basic|Digest|Negotiate)",
        "(realm|service|scope|error)",
        "[ \t]{0,3}[,=][ \t]{0,3}",
        r#""[ !#-\[\]-~]{0,12}""#,
        r#""https://[a-z]{1,4}\.example/t""#,
        "[ -~]{0,6}",
        Just("\"".to_owned()),
        Just("\\".to_owned()),
    ]
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(parts in prop::collection::vec(part(), 0..24)) {
        if let Some(Challenge::Bearer(bearer)) = find(&[&parts.concat()]) {
            prop_assert!(bearer.scopes[0].starts_with("repository:"));
            prop_assert!(bearer.scopes.iter().all(|scope| !scope.contains("push")
                || !scope.contains(':')));
            bearer.url();
        }
    }

    #[test]
    fn a_whole_challenge_is_found_beside_others(
        before in prop_oneof!["[A-Z][a-z]{2,8}", "[A-Z][a-z]{2,8} [a-z]{1,3}=[a-z]{1,3}",
            "Negotiate [A-Za-z0-9]{1,8}={0,2}", r#"Digest x="[a-z, ]{0,9}""#],
        spaces in "[ \t]{0,3}",
    ) {
        prop_assume!(!before.to_ascii_lowercase().starts_with("bearer"));
        let line = format!("{before}{spaces},{spaces}{HUB}");
        prop_assert_eq!(find(&[&line]), find(&[HUB]));
    }
}
