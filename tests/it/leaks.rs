//! What must stay secret, looked for wherever somebody else could read it: the log of the real program at its most
//! talkative, its metrics, its answers, and every document of its database.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use futures::TryStreamExt;
use mongodb::bson::{RawDocumentBuf, doc};
use reqwest::header::HeaderMap;
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::at_rest::forms;
use crate::http2::{END_HEADERS, END_STREAM, GOAWAY, HEADERS, METHOD_GET, fields, flood, frame};
use crate::starting::Gateway;
use crate::support::app::{ADMIN_KEY, MASTER_KEY, TestApp, noise};
use crate::support::jwt::hs256;
use crate::support::requests::{Form, query};
use crate::support::{mongod, program};

const JWT_SECRET: &str = "the canary's secret, of at least thirty-two bytes";
const WRONG_KEY: &str = "gg_0123456789abcdef01234567_a-key-that-nobody-has-0123456789";
/// Of a client's key that opens nothing.
const WRONG_SEED: u64 = 9;
const IDEMPOTENCY_KEY: &str = "idempotency-canary-0123456789";
const CONTENT: &str = "the canary sings at midnight in the vault";
const PASSWORD: &str = "the-password-of-the-canary";
const NAME: &str = "canary-in-the-coal-mine";

/// Where somebody may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Log,
    Metrics,
    Answers,
    Database,
}

use Place::{Answers, Database, Log, Metrics};

type Evidence = BTreeMap<Place, Vec<u8>>;

/// One secret, in every form in which it could be printed, and the places that must not hold it.
struct Secret {
    what: &'static str,
    forms: Vec<Vec<u8>>,
    kept_from: Vec<Place>,
}

impl Secret {
    fn new(what: &'static str, secret: impl AsRef<[u8]>, kept_from: &[Place]) -> Self {
        let secret = secret.as_ref();
        assert!(secret.len() >= 16, "{what} is too short to be told from chance");
        let mut spelled = forms(secret).to_vec();
        spelled.push(URL_SAFE_NO_PAD.encode(secret));
        // The end of base64 depends on what follows.
        let without_end = |form: String| form.trim_end_matches('=')[..form.trim_end_matches('=').len() - 2].into();
        let forms = spelled.into_iter().map(without_end).chain([secret.to_vec()]).collect();
        Self { what, forms, kept_from: kept_from.to_vec() }
    }

    fn is_in(&self, text: &[u8]) -> bool {
        self.forms.iter().any(|form| text.windows(form.len()).any(|window| window == form))
    }
}

/// The secrets that are where they must not be.
fn leaks(secrets: &[Secret], evidence: &Evidence) -> Vec<String> {
    let found = secrets.iter().flat_map(|secret| {
        let places = evidence.iter().filter(|(place, text)| secret.kept_from.contains(place) && secret.is_in(text));
        places.map(|(place, _)| format!("{} is in {place:?}", secret.what))
    });
    found.collect()
}

/// The program with its log at the most it says, and everything that it answered.
struct Watched {
    gateway: Gateway,
    beside: TestApp,
    client: Client,
    answers: Vec<u8>,
    _folder: TempDir,
}

impl Watched {
    async fn start(format: &str) -> Self {
        let beside = TestApp::start().await;
        let folder = TempDir::new().unwrap();
        let mut command = program::command_at(mongod::uri(), &beside.database, &[]);
        command.env("GRIDGATE__LOG__FILTER", "trace").env("GRIDGATE__LOG__FORMAT", format);
        command.env("GRIDGATE__AUTH__JWT__SECRET", JWT_SECRET);
        let gateway = Gateway::run(&mut command, &folder.path().join("log")).await;
        let client = Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
        Self { gateway, beside, client, answers: Vec::new(), _folder: folder }
    }

    fn request(&self, method: &str, path: &str) -> RequestBuilder {
        self.client.request(method.parse().unwrap(), format!("{}{path}", self.gateway.url))
    }

    /// An answer that nobody else sees: the one that shows a new key.
    async fn ask_unseen(&self, request: RequestBuilder) -> Value {
        let response = request.bearer_auth(ADMIN_KEY).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 201);
        response.json().await.unwrap()
    }

    /// An answer of this status, kept whole.
    async fn expect(&mut self, status: u16, request: RequestBuilder) -> Value {
        let response = request.send().await.unwrap();
        let (found, head) = (response.status().as_u16(), format!("{:?}", response.headers()));
        self.answers.extend_from_slice(head.as_bytes());
        let body = response.bytes().await.unwrap_or_default();
        assert_eq!(found, status, "{}", String::from_utf8_lossy(&body));
        self.answers.extend_from_slice(&body);
        serde_json::from_slice(&body).unwrap_or(Value::Null)
    }

    async fn everything_stored(&self) -> Vec<u8> {
        let (db, mut all) = (self.beside.mongo().await, Vec::new());
        for name in db.list_collection_names().await.unwrap() {
            let mut found = db.collection::<RawDocumentBuf>(&name).find(doc! {}).await.unwrap();
            while let Some(document) = found.try_next().await.unwrap() {
                all.extend_from_slice(document.as_bytes());
            }
        }
        all
    }

    async fn evidence(&self) -> Evidence {
        let metrics = self.request("GET", "/metrics").send().await.unwrap().bytes().await.unwrap().to_vec();
        BTreeMap::from([
            (Log, self.gateway.printed().into_bytes()),
            (Metrics, metrics),
            (Answers, self.answers.clone()),
            (Database, self.everything_stored().await),
        ])
    }
}

/// Credentials of each kind, right, wrong and in the wrong place.
async fn use_credentials(watched: &mut Watched, key: &str, jwt: &str) {
    for token in [ADMIN_KEY, key, jwt] {
        let list = watched.request("GET", "/v1/files").bearer_auth(token);
        watched.expect(200, list).await;
    }
    let forged = hs256("another secret of at least thirty-two bytes", &json!({ "sub": "a", "tenant": "acme" }), 60);
    for token in [WRONG_KEY, &format!("{key}x"), &format!("{jwt}x"), &forged] {
        let list = watched.request("GET", "/v1/files").bearer_auth(token);
        watched.expect(401, list).await;
    }
    let basic = watched.request("GET", "/v1/files").header("authorization", format!("Basic {key}"));
    watched.expect(401, basic).await;
    let in_query = watched.request("GET", &format!("/v1/files?access_token={jwt}&key={key}"));
    watched.expect(401, in_query).await;
    let over_http2 = frame(HEADERS, END_STREAM | END_HEADERS, 1, &fields(METHOD_GET, "/v1/files"));
    let (_, said) = flood(&watched.gateway.url, [over_http2, frame(GOAWAY, 0, 0, &[0; 8])].into_iter()).await;
    watched.answers.extend_from_slice(&said);
    let all = watched.request("GET", "/v1/admin/keys").bearer_auth(ADMIN_KEY);
    watched.expect(200, all).await;
}

/// Content under a client's key, by each way in, read with the right key and with others.
async fn use_customer_key(watched: &mut Watched, customer_key: &[u8]) {
    const HEADER: &str = "Gridgate-Encryption-Key";
    let (right, wrong) = (STANDARD.encode(customer_key), STANDARD.encode(noise(32, WRONG_SEED)));
    let named = query(&[("name", NAME), ("compress", "none")]);
    let post = watched.request("POST", &format!("/v1/files?{named}")).bearer_auth(ADMIN_KEY).header(HEADER, &right);
    let file = watched.expect(201, post.header("idempotency-key", IDEMPOTENCY_KEY).body(CONTENT)).await;
    let content = format!("/v1/files/{}/content", file["id"].as_str().unwrap());
    let half = right[..40].to_owned();
    let get =
        |watched: &Watched, key: &str| watched.request("GET", &content).bearer_auth(ADMIN_KEY).header(HEADER, key);
    // Not kept: it is the content itself.
    assert_eq!(get(watched, &right).send().await.unwrap().text().await.unwrap(), CONTENT);
    for (key, status) in [(&wrong, 403), (&half, 400)] {
        watched.expect(status, get(watched, key)).await;
    }
    let begin = watched.request("POST", "/v1/uploads").bearer_auth(ADMIN_KEY).header(HEADER, &right);
    let begin = begin.json(&json!({ "name": NAME, "size": CONTENT.len() }));
    let upload = watched.expect(201, begin).await;
    let path = format!("/v1/uploads/{}", upload["id"].as_str().unwrap());
    let part = watched.request("PUT", &format!("{path}/parts/0")).bearer_auth(ADMIN_KEY);
    watched.expect(200, part.header(HEADER, &right).body(CONTENT)).await;
    let complete = watched.request("POST", &format!("{path}/complete")).bearer_auth(ADMIN_KEY);
    watched.expect(201, complete.header(HEADER, &right)).await;
}

/// What opens links, and what whoever opens them is given.
struct Links {
    token: String,
    signature: String,
    grant: String,
    entry: String,
}

/// Links of both kinds, right and wrong.
async fn use_links(watched: &mut Watched) -> Links {
    let file = watched.request("POST", "/v1/files?name=shared").bearer_auth(ADMIN_KEY).body("shared");
    let path = format!("/v1/files/{}", watched.expect(201, file).await["id"].as_str().unwrap());
    let said = json!({ "password": PASSWORD, "allowComment": true });
    let made = watched.ask_unseen(watched.request("POST", &format!("{path}/shares")).json(&said)).await;
    let token = made["token"].as_str().unwrap().to_owned();
    let form = watched.request("POST", &format!("/s/{token}")).body(format!("password={PASSWORD}"));
    let form = form.header("content-type", "application/x-www-form-urlencoded").send().await.unwrap();
    let cookie =
        |headers: &HeaderMap| headers["set-cookie"].to_str().unwrap().split([';', '=']).nth(1).unwrap().to_owned();
    let entry = cookie(form.headers());
    let content = format!("/s/{token}/content");
    let get = |watched: &Watched, password: &str| {
        watched.request("GET", &content).header("gridgate-share-password", password)
    };
    let grant = get(watched, PASSWORD).send().await.unwrap().headers()["gridgate-grant"].to_str().unwrap().to_owned();
    let wrong = format!("{PASSWORD}x");
    for (status, request) in [
        (403, get(watched, &wrong)),
        (403, watched.request("GET", &content).header("gridgate-grant", format!("{grant}x"))),
        (404, watched.request("GET", &format!("/s/{}x/content", &token[1..]))),
        (401, watched.request("GET", &content).bearer_auth(&token)),
        (200, watched.request("GET", &format!("{}/shares", path)).bearer_auth(ADMIN_KEY)),
        (
            200,
            watched.request("GET", &format!("/v1/shares/{}/log", made["id"].as_str().unwrap())).bearer_auth(ADMIN_KEY),
        ),
    ] {
        watched.expect(status, request).await;
    }
    let signed = watched.request("POST", &format!("{path}/presign")).bearer_auth(ADMIN_KEY).json(&json!({}));
    let signed: Value = signed.send().await.unwrap().json().await.unwrap();
    let url = signed["url"].as_str().unwrap();
    let signature = url.rsplit_once('=').unwrap().1.to_owned();
    let query = url.split_once('?').unwrap().1.to_owned();
    for (status, path) in [(200, "/content?"), (400, "/content?x=1&x=2&"), (403, "/content?x=1&"), (401, "?")] {
        let request = watched.request("GET", &format!("/v1/files/{}{path}{query}", file_id(url)));
        watched.expect(status, request).await;
    }
    Links { token, signature, grant, entry }
}

fn file_id(url: &str) -> &str {
    url.split('/').nth_back(1).unwrap()
}

/// Faults of clients and of the store, with names and content in them.
async fn provoke(watched: &mut Watched) {
    let named = |name: &str| query(&[("name", name), ("encrypt", "true"), ("compress", "none")]);
    let post = |watched: &Watched, name: &str| {
        watched.request("POST", &format!("/v1/files?{}", named(name))).bearer_auth(ADMIN_KEY)
    };
    let file = watched.expect(201, post(watched, NAME).body(CONTENT)).await;
    let path = format!("/v1/files/{}", file["id"].as_str().unwrap());
    for (status, request) in [
        (400, post(watched, &format!("{NAME}\0")).body(CONTENT)),
        (
            422,
            post(watched, NAME).header("repr-digest", format!("sha-256=:{}:", STANDARD.encode([7; 32]))).body(CONTENT),
        ),
        (422, post(watched, "other").header("idempotency-key", IDEMPOTENCY_KEY).body(CONTENT)),
        (400, post(watched, NAME).header("content-type", "multipart/form-data; boundary=b").body(CONTENT)),
        (400, watched.request("GET", &format!("/v1/files/{NAME}")).bearer_auth(ADMIN_KEY)),
        (404, watched.request("GET", &format!("/no/such/{NAME}")).bearer_auth(ADMIN_KEY)),
        (400, watched.request("GET", &format!("/v1/files?{NAME}={CONTENT}")).bearer_auth(ADMIN_KEY)),
        (400, watched.request("PATCH", &path).bearer_auth(ADMIN_KEY).json(&json!({ NAME: CONTENT }))),
        (200, watched.request("PATCH", &path).bearer_auth(ADMIN_KEY).json(&json!({ "name": format!("{NAME}-2") }))),
    ] {
        watched.expect(status, request).await;
    }
    let form = Form::new().field(NAME, CONTENT).file(NAME, "text/plain", CONTENT.as_bytes()).body();
    let form = watched.request("POST", "/v1/files").bearer_auth(ADMIN_KEY).body(form);
    let form = form.header("content-type", "multipart/form-data; boundary=----gridgate-tests-0123456789");
    watched.expect(400, form).await;
    let db = watched.beside.mongo().await;
    for chunks in db.list_collection_names().await.unwrap().iter().filter(|name| name.ends_with(".chunks")) {
        db.collection::<RawDocumentBuf>(chunks).delete_many(doc! {}).await.unwrap();
    }
    let damaged = watched.request("GET", &format!("{path}/content")).bearer_auth(ADMIN_KEY);
    watched.expect(500, damaged).await;
}

/// Whether the search finds what is there, in each place and form, before it is believed that nothing is.
fn assert_search_works(evidence: &Evidence, secrets: &[Secret]) {
    for (place, text) in evidence {
        for secret in secrets.iter().filter(|secret| secret.kept_from.contains(place)) {
            for form in &secret.forms {
                let planted = BTreeMap::from([(*place, [text, form.as_slice(), text].concat())]);
                assert!(leaks(std::slice::from_ref(secret), &planted).len() == 1, "{} in {place:?}", secret.what);
            }
        }
    }
    let holds = |place: Place, what: &str| evidence[&place].windows(what.len()).any(|window| window == what.as_bytes());
    assert!(holds(Answers, NAME) && holds(Database, NAME), "a name is where it belongs");
    assert!(holds(Log, "h2::"), "what is linked into the program talks, too");
    assert!(holds(Log, "idempotency_conflict"), "the log tells what was refused");
    assert!(holds(Metrics, "gridgate_refused_total"), "these are the metrics");
}

async fn assert_nothing_leaks(format: &str) {
    const EVERYWHERE: [Place; 4] = [Log, Metrics, Answers, Database];
    let mut watched = Watched::start(format).await;
    let said = json!({ "tenant": "default", "scopes": ["files:read"] });
    let make = |watched: &Watched| watched.request("POST", "/v1/admin/keys").json(&said);
    let made = watched.ask_unseen(make(&watched)).await;
    let repeatable = watched.ask_unseen(make(&watched).header("idempotency-key", IDEMPOTENCY_KEY)).await;
    let (key, other) = (made["key"].as_str().unwrap(), repeatable["key"].as_str().unwrap());
    let jwt = hs256(JWT_SECRET, &json!({ "sub": "alice", "tenant": "acme", "scope": "files:read" }), 600);
    let customer_key = noise(32, 8);
    use_credentials(&mut watched, key, &jwt).await;
    use_customer_key(&mut watched, &customer_key).await;
    let links = use_links(&mut watched).await;
    let stored = watched.everything_stored().await;
    provoke(&mut watched).await;
    let mut evidence = watched.evidence().await;
    evidence.entry(Database).or_default().extend(stored);

    let secret_part = |key: &str| key.splitn(3, '_').nth(2).unwrap().to_owned();
    let master_key = STANDARD.decode(MASTER_KEY.split_once(':').unwrap().1).unwrap();
    let secrets = [
        Secret::new("the administrator's key", ADMIN_KEY, &EVERYWHERE),
        Secret::new("an API key", key, &EVERYWHERE),
        Secret::new("the secret part of an API key", secret_part(key), &EVERYWHERE),
        Secret::new("the secret part of a repeatable key", secret_part(other), &EVERYWHERE),
        Secret::new("a wrong key", WRONG_KEY, &EVERYWHERE),
        Secret::new("a token", &jwt, &EVERYWHERE),
        Secret::new("the signature of a token", jwt.rsplit_once('.').unwrap().1, &EVERYWHERE),
        Secret::new("the secret of tokens", JWT_SECRET, &EVERYWHERE),
        Secret::new("a client's key", &customer_key, &EVERYWHERE),
        Secret::new("another client's key", noise(32, WRONG_SEED), &EVERYWHERE),
        Secret::new("the first half of a client's key", &customer_key[..16], &EVERYWHERE),
        Secret::new("the master key", &master_key, &EVERYWHERE),
        Secret::new("the token of a share", &links.token, &EVERYWHERE),
        Secret::new("the password of a share", PASSWORD, &EVERYWHERE),
        Secret::new("the signature of a URL", &links.signature, &EVERYWHERE),
        Secret::new("the grant of a download", &links.grant, &EVERYWHERE),
        Secret::new("what stands for a password", &links.entry, &EVERYWHERE),
        Secret::new("an idempotency key", IDEMPOTENCY_KEY, &EVERYWHERE),
        Secret::new("content", CONTENT, &EVERYWHERE),
        Secret::new("a name", NAME, &[Log, Metrics]),
    ];
    assert_search_works(&evidence, &secrets);
    assert_eq!(leaks(&secrets, &evidence), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_secret_is_in_the_text_log_the_metrics_the_answers_or_the_database() {
    assert_nothing_leaks("text").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_secret_is_in_the_json_log_the_metrics_the_answers_or_the_database() {
    assert_nothing_leaks("json").await;
}
