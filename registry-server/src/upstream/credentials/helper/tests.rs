use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use secrecy::ExposeSecret as _;
use tempfile::TempDir;

use super::*;

/// A helper that behaves as it is told.
struct Fixture {
    folder: TempDir,
    helper: CredentialHelper,
}

/// Answers with a password of its own each time.
const COUNTING: &str = r#"echo "{\"ServerURL\":\"$server\",\"Username\":\"AWS\",\"Secret\":\"s$(wc -l <"$folder/runs" | tr -d ' ')\"}""#;

impl Fixture {
    fn new(behaviour: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let script = script.join("tests/auth/docker-credential-fixture");
        symlink(script, folder.path().join("docker-credential-fixture")).unwrap();
        let name = HelperName::parse("fixture").unwrap();
        let fixture = Self {
            helper: CredentialHelper::new(name, Some(folder.path())),
            folder,
        };
        fixture.behave(behaviour);
        fixture
    }

    fn behave(&self, behaviour: &str) {
        fs::write(self.folder.path().join("behaviour"), behaviour).unwrap();
    }

    fn runs(&self) -> Vec<String> {
        let runs = fs::read_to_string(self.folder.path().join("runs")).unwrap_or_default();
        runs.lines().map(str::to_owned).collect()
    }

    async fn ask(&self, refused: Option<&Credential>) -> Result<Option<Credential>, UpstreamError> {
        self.helper.credential("r.example", refused).await
    }

    /// `USER:SECRET`, `<token>`, nothing, or why not.
    async fn told(&self, refused: Option<&Credential>) -> String {
        match self.ask(refused).await {
            Ok(Some(Credential::Password { username, password })) => {
                format!("{username}:{}", password.expose_secret())
            }
            Ok(Some(Credential::IdentityToken(token))) => {
                format!("<token> {}", token.expose_secret())
            }
            Ok(Some(Credential::RegistryToken(_))) => panic!("helpers have none"),
            Ok(None) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    /// Lets the last answer, and the last run, be so much older.
    fn age(&self, by: Duration) {
        let server = self.helper.server("r.example");
        let mut kept = server.lock();
        if let Some((_, at)) = &mut kept.answer {
            *at = at.checked_sub(by).unwrap();
        }
        if let Some((at, _)) = &mut kept.ended {
            *at = at.checked_sub(by).unwrap();
        }
    }

    /// Waits for a run that nobody waits for.
    async fn settled(&self) {
        let server = self.helper.server("r.example");
        drop(server.run.lock().await);
    }
}

#[tokio::test]
async fn a_helper_is_asked_once_for_all_and_its_answer_is_kept() {
    let fixture = Fixture::new(COUNTING);
    let answers = futures::future::join_all((0..8).map(|_| fixture.told(None))).await;
    assert_eq!(answers, ["AWS:s1"; 8]);
    assert_eq!(fixture.runs(), ["get r.example"]);
    fixture.age(RENEWED_AFTER - Duration::from_secs(1));
    assert_eq!(fixture.told(None).await, "AWS:s1");
    assert_eq!(fixture.runs().len(), 1);
    let other = fixture.helper.credential("other.example:5000", None).await;
    assert!(other.unwrap().is_some());
    assert_eq!(fixture.runs()[1], "get other.example:5000");
}

#[tokio::test]
async fn an_answer_is_renewed_before_it_is_over_and_nobody_waits() {
    let fixture = Fixture::new(COUNTING);
    assert_eq!(fixture.told(None).await, "AWS:s1");
    fixture.age(RENEWED_AFTER);
    assert_eq!(fixture.told(None).await, "AWS:s1");
    fixture.settled().await;
    assert_eq!(fixture.told(None).await, "AWS:s2");
    fixture.age(KEPT_MAX);
    assert_eq!(fixture.told(None).await, "AWS:s3");
    assert_eq!(fixture.runs().len(), 3);
}

#[tokio::test]
async fn a_credential_that_was_refused_is_replaced_but_not_at_any_rate() {
    let fixture = Fixture::new(COUNTING);
    let refused = fixture.ask(None).await.unwrap().unwrap();
    assert_eq!(
        fixture.told(Some(&refused)).await,
        "AWS:s1",
        "it ran a moment ago"
    );
    fixture.age(PAUSE);
    let wait = (0..8).map(|_| fixture.told(Some(&refused)));
    assert_eq!(futures::future::join_all(wait).await, ["AWS:s2"; 8]);
    assert_eq!(fixture.runs().len(), 2);
}

#[tokio::test]
async fn a_helper_that_fails_is_left_alone_and_its_last_answer_is_used() {
    let fixture = Fixture::new(COUNTING);
    let good = fixture.ask(None).await.unwrap().unwrap();
    fixture.behave("echo hunter2; exit 3");
    fixture.age(KEPT_MAX);
    for _ in 0..3 {
        assert_eq!(fixture.told(None).await, "AWS:s1");
    }
    assert_eq!(fixture.runs().len(), 2);
    let error = fixture.told(Some(&good)).await;
    assert!(
        error.contains("docker-credential-fixture failed (exit status: 3)"),
        "{error}"
    );
    assert!(!error.contains("hunter2"), "{error}");
    assert_eq!(fixture.runs().len(), 2);
    fixture.age(PLAUSIBLE_MAX);
    assert!(fixture.ask(None).await.is_err(), "it is too old by now");
    assert_eq!(fixture.runs().len(), 3);
    fixture.behave(COUNTING);
    fixture.age(PAUSE);
    assert_eq!(fixture.told(None).await, "AWS:s4");
}

#[tokio::test]
async fn what_helpers_answer_is_understood() {
    for (behaviour, expected) in [
        (r#"echo '{"Username":"<token>","Secret":"t"}'"#, "<token> t"),
        (r#"echo '{"Username":"me","Secret":"s","More":1}'"#, "me:s"),
        (
            "echo 'credentials not found in native keychain'; exit 1",
            "",
        ),
        ("echo 'Credentials not found'; exit 1", ""),
    ] {
        assert_eq!(
            Fixture::new(behaviour).told(None).await,
            expected,
            "{behaviour}"
        );
    }
    for (behaviour, wanted) in [
        ("exit 1", "failed (exit status: 1)"),
        ("kill -9 $$", "failed (signal: 9"),
        ("echo 'credentials not found'", "no credential"),
        ("echo hunter2", "no credential"),
        (r#"echo '{"Username":"me"}'"#, "no credential"),
        (
            r#"echo '{"Username":"m:e","Secret":"hunter2"}'"#,
            "with a colon",
        ),
        ("head -c 70000 /dev/zero; sleep 60", "more than 65536 bytes"),
    ] {
        let told = Fixture::new(behaviour).told(None).await;
        assert!(told.contains(wanted), "{behaviour}: {told}");
        assert!(!told.contains("hunter2"), "{told}");
    }
    let name = HelperName::parse("missing").unwrap();
    let missing = CredentialHelper::new(name, Some(Path::new("/nonexistent")));
    let error = missing.credential("r.example", None).await.err().unwrap();
    assert!(
        error
            .to_string()
            .contains("docker-credential-missing cannot be run"),
        "{error}"
    );
}

#[tokio::test]
async fn a_helper_that_is_not_waited_for_is_killed_with_what_it_started() {
    // The pipe is held by a child of the script, and closed when that is gone.
    let fixture = Fixture::new(
        "mkfifo \"$folder/alive\"; sh -c 'exec 3>\"$0\"; sleep 600' \"$folder/alive\" & wait",
    );
    let mut asking = Box::pin(fixture.told(None));
    let alive = fixture.folder.path().join("alive");
    let reader = async {
        // Until the script has made it.
        while !alive.exists() {
            assert!(futures::poll!(&mut asking).is_pending());
            tokio::task::yield_now().await;
        }
        tokio::task::spawn_blocking(move || fs::File::open(alive).unwrap())
            .await
            .unwrap()
    };
    let mut pipe = reader.await;
    drop(asking);
    let ended = tokio::task::spawn_blocking(move || {
        let mut byte = [0];
        std::io::Read::read(&mut pipe, &mut byte).unwrap()
    });
    assert_eq!(ended.await.unwrap(), 0);
    assert_eq!(fixture.runs().len(), 1);
}

#[test]
fn names_of_helpers_are_parts_of_names_of_programs() {
    for name in ["ecr-login", "gcr", "acr-env", "desktop.exe", "a_1"] {
        let parsed = HelperName::parse(name).unwrap();
        assert_eq!(parsed.program(), format!("docker-credential-{name}"));
    }
    for name in ["", "../x", "a b", "A", "x;y", "x\0", "-é", &"x".repeat(65)] {
        assert!(HelperName::parse(name).is_err(), "{name:?}");
    }
}
