//! The pages for people, as a browser asks for them.

use reqwest::Method;
use reqwest::header::{ACCEPT, AUTHORIZATION};

use crate::node::Node;

/// What a browser says that it takes for a page.
const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

/// The paths that a page names in its `href` and `src`.
fn named(page: &str) -> Vec<&str> {
    let rest = page.split(" href=\"").chain(page.split(" src=\"")).filter(|rest| rest.starts_with('/'));
    rest.filter_map(|rest| rest.split('"').next()).collect()
}

#[tokio::test]
async fn pages_come_whole_and_run_nothing_but_their_own_scripts() {
    let node = Node::start().await;
    for page in ["/", "/docs"] {
        let answer = node.request(Method::GET, page).header(ACCEPT, BROWSER).send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "{page}");
        let header = |name: &str| answer.headers()[name].to_str().expect("it is text").to_owned();
        assert_eq!(header("content-type"), "text/html; charset=utf-8");
        assert_eq!(header("x-content-type-options"), "nosniff");
        let policy = header("content-security-policy");
        assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self'"), "{policy}");
        let text = answer.text().await.expect("it is text");
        assert!(!text.contains("<script>") && !text.contains("<style>"), "{page} has something inline");
        let parts = named(&text);
        assert!(parts.iter().any(|part| part.ends_with(".js")), "{parts:?}");
        for part in parts {
            let answer = node.request(Method::GET, part).header(ACCEPT, BROWSER).send().await.expect("an answer");
            assert_eq!(answer.status(), 200, "{page} names {part}");
            let media = answer.headers()["content-type"].to_str().expect("it is text");
            let wanted = match part.rsplit('.').next() {
                Some("css") => "text/css",
                Some("js") => "text/javascript",
                _ => continue,
            };
            assert!(media.starts_with(wanted), "{part} is {media}");
        }
    }
    let unknown = node.get("/pages/none.js").await;
    assert_eq!((unknown.status, unknown.code()), (404, "no_such_route"));
}

#[tokio::test]
async fn a_program_that_asks_for_json_is_told_what_serves_here() {
    let node = Node::start().await;
    let said = node.request(Method::GET, "/").header(ACCEPT, "application/json").send().await.expect("an answer");
    assert_eq!(said.headers()["content-type"], "application/json");
    let said = node.request(Method::GET, "/").header(AUTHORIZATION, "Bearer x").send().await.expect("an answer");
    assert_eq!(said.headers()["content-type"], "application/json");
    // Who takes anything is shown the page, as is a browser that has credentials.
    for accept in ["*/*", BROWSER] {
        let shown = node.request(Method::GET, "/").header(ACCEPT, accept).send().await.expect("an answer");
        assert_eq!(shown.headers()["content-type"], "text/html; charset=utf-8", "{accept}");
    }
}
