//! How often somebody may ask, and that others do not suffer for it.

use std::time::Duration;

use futures::future::join_all;

use crate::auth::key;
use crate::support::app::{ADMIN_KEY, TestApp, content_path};
use crate::support::requests::{Reply, send};

fn assert_is_limited(reply: &Reply) {
    let problem = reply.refused(429, "too_many_requests");
    let secs: u64 = reply.header("retry-after").parse().unwrap();
    assert!(problem["retryable"] == true && problem["retryAfterSecs"] == secs && secs >= 1, "{problem}");
}

#[tokio::test]
async fn guessing_is_told_to_wait_and_who_knows_is_served() {
    let app = TestApp::start_with(|settings| settings.limits.wrong_credentials_per_min = 30).await;
    let file = app.put("name=a&access=public", "text/plain", "x").await;
    let guess = |n: usize| app.anonymous("GET", "/v1/files").bearer_auth(format!("gg_admin_{n:032}"));
    let replies = join_all((0..1000).map(|n| send(guess(n)))).await;
    let mut limited = 0;
    for reply in &replies {
        match reply.status {
            401 => {}
            _ => {
                assert_is_limited(reply);
                limited += 1;
            }
        }
    }
    // One in two seconds is added meanwhile.
    assert!((800..=970).contains(&limited), "{limited} of 1000");
    send(app.get("/v1/files")).await.expect(200);
    assert_eq!(send(app.anonymous("GET", &content_path(&file))).await.status, 200, "nor who needs no credential");
    send(app.anonymous("GET", "/v1/files")).await.refused(401, "unauthenticated");
    tokio::time::sleep(Duration::from_secs(3)).await;
    send(guess(1)).await.refused(401, "unauthenticated");
}

#[tokio::test]
async fn a_credential_has_its_rate_and_takes_no_others() {
    let app = TestApp::start_with(|settings| settings.limits.credential_per_sec = 5).await;
    let other = key(&app, "other", "default", &["files:read"], None).await;
    let ask = |token: &str| app.anonymous("GET", "/v1/files").bearer_auth(token);
    let replies = join_all((0..50).map(|_| send(ask(ADMIN_KEY)))).await;
    let (served, limited): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 200);
    // And five in each second that the others take.
    assert!((5..50).contains(&served.len()), "{} are served", served.len());
    limited.into_iter().for_each(assert_is_limited);
    send(ask(&other)).await.expect(200);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    send(ask(ADMIN_KEY)).await.expect(200);
}

#[tokio::test]
async fn an_address_has_its_rate_whom_a_trusted_proxy_names_too() {
    let app = TestApp::start_with(|settings| {
        settings.limits.address_per_sec = 5;
        settings.server.trusted_proxies = vec!["127.0.0.1".to_owned()];
    });
    let app = app.await;
    let ask = |path: &str, ip: &str| app.get(path).header("x-forwarded-for", ip);
    let replies = join_all((0..50).map(|_| send(ask("/v1/files", "192.0.2.1")))).await;
    let limited: Vec<_> = replies.iter().filter(|reply| reply.status != 200).collect();
    assert!((1..=45).contains(&limited.len()), "{} are refused", limited.len());
    limited.into_iter().for_each(assert_is_limited);
    send(ask("/v1/files", "192.0.2.2")).await.expect(200);
    let health = join_all((0..50).map(|_| send(ask("/livez", "192.0.2.1")))).await;
    assert!(health.iter().all(|reply| reply.status == 200), "orchestrators are not counted");
    let strangers = join_all((0..50).map(|n| send(ask("/v1/files", &format!("2001:db8::{n:x}"))))).await;
    assert!(strangers.iter().any(|reply| reply.status == 429), "a network of version 6 is one");
}
