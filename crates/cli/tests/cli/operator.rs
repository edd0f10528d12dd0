//! What operators order and lay down, and one that is picked.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::{Stub, problem, rollcall, run, service};

fn order(line: &str) -> (u16, Value) {
    let since = "2026-01-01T00:00:00Z";
    let standing = json!({"service_id": "web-1", "present": false, "operator": {
        "maintenance": {"reason": "a\u{1b}disk", "since": since}, "drain": {"since": since}}});
    match line.split(' ').next() {
        Some("PUT") => (
            200,
            json!({"service_id": "web-1", "changed": true, "present": true, "status": "maintenance",
            "operator": {"maintenance": {"since": since}}, "revision": 4}),
        ),
        Some("DELETE") => (
            200,
            json!({"service_id": "web-1", "changed": false, "present": false, "operator": {},
            "revision": 4}),
        ),
        _ => (200, json!({"orders": [standing], "revision": 4})),
    }
}

#[test]
fn orders_are_given_lifted_and_listed() {
    let stub = Stub::start(order);
    let say = |arguments: &[&str]| {
        let (code, out, err) = run(rollcall(arguments).args(["--endpoint", &stub.endpoint]));
        assert_eq!(code, Some(0), "{arguments:?}: {err}");
        (out, stub.requests.try_iter().collect::<Vec<_>>().join(" "))
    };
    let ordered = "maintenance of web-1 is ordered; it is shown as maintenance\n".to_owned();
    let given = say(&["maintenance", "on", "web-1", "--reason", "a new disk"]);
    assert_eq!(given, (ordered, "PUT /api/services/web-1/maintenance".to_owned()));
    let lifted = "maintenance of web-1 was not ordered; it is off the roll\n".to_owned();
    assert_eq!(say(&["maintenance", "off", "web-1"]), (lifted, "DELETE /api/services/web-1/maintenance".to_owned()));
    assert_eq!(say(&["drain", "web-1"]).1, "PUT /api/services/web-1/drain");
    assert_eq!(say(&["drain", "web-1", "--off"]).1, "DELETE /api/services/web-1/drain");
    let (table, asked) = say(&["maintenance", "list"]);
    assert_eq!(asked, "GET /api/orders?consistency=linearizable");
    let expected = "ID     ON THE ROLL  ORDER        SINCE                 REASON\n\
                    web-1  no           maintenance  2026-01-01T00:00:00Z  a\u{fffd}disk\n\
                    web-1  no           drain        2026-01-01T00:00:00Z\n";
    assert_eq!(table, expected);
}

#[test]
fn trust_and_ranking_are_said_and_shown() {
    let stub = Stub::start(|line: &str| match line.split_once(" /api/").map_or("", |(_, path)| path) {
        "ranking" => (
            200,
            json!({"default": false, "weights":
            {"capability": 0.0, "health": 0.5, "proximity": 1.0, "trust": 0.0}}),
        ),
        "trust" => (200, json!({"owners": [{"owner": "ours", "trust": 9.5}]})),
        _ if line.starts_with("PUT") => (200, json!({"owner": "ours", "trust": 9.5})),
        _ => (200, json!({"owner": "ours"})),
    });
    let say = |arguments: &[&str]| {
        let (code, out, err) = run(rollcall(arguments).args(["--endpoint", &stub.endpoint]));
        assert_eq!(code, Some(0), "{arguments:?}: {err}");
        out
    };
    assert_eq!(say(&["trust", "set", "ours", "9.5"]), "ours is trusted with 9.5 of 10\n");
    assert!(say(&["trust", "unset", "ours"]).starts_with("nothing is known of ours"));
    assert_eq!(say(&["trust", "list"]), "OWNER  TRUST\nours   9.5\n");
    let shown = say(&["ranking", "set", "proximity=1,health=0.5"]);
    assert!(shown.contains("proximity   1\n") && shown.contains("chosen by   an operator\n"), "{shown}");
    let asked: Vec<_> = stub.requests.try_iter().collect();
    assert_eq!(asked, ["PUT /api/trust/ours", "DELETE /api/trust/ours", "GET /api/trust", "PUT /api/ranking"]);
    let (code, _, err) = run(&mut rollcall(&["ranking", "set", "speed=1"]));
    assert_eq!(code, Some(2), "{err}");
}

#[test]
fn quotas_are_set_shown_and_cleared() {
    let stub = Stub::start(|line: &str| {
        let limits = if line.starts_with("DELETE") { json!({}) } else { json!({"registrations": 3}) };
        let used = json!({"registrations": 2, "bytes": 80, "watchers": 1});
        (200, json!({"tenant": "acme", "limits": limits, "used": used}))
    });
    let say = |arguments: &[&str]| {
        let all = ["tenant", "quota"].into_iter().chain(arguments.iter().copied()).collect::<Vec<_>>();
        run(rollcall(&all).args(["--endpoint", &stub.endpoint]))
    };
    let table = "tenant acme\n\
                 QUOTA                 LIMIT  IN USE\n\
                 registrations         3      2\n\
                 bytes                 -      80\n\
                 watchers at a node    -      1\n\
                 requests/s at a node  -      -\n";
    assert_eq!(say(&["set", "--registrations", "3"]), (Some(0), table.to_owned(), String::new()));
    assert_eq!(say(&["show"]).1, table);
    assert!(say(&["clear"]).1.contains("registrations         -      2\n"));
    let (code, out, _) = say(&["show", "-o", "json"]);
    let shown: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &shown["limits"]), (Some(0), &json!({"registrations": 3})));
    let asked: Vec<_> = stub.requests.try_iter().collect();
    assert_eq!(asked, ["PUT /api/quota", "GET /api/quota", "DELETE /api/quota", "GET /api/quota"]);
    assert_eq!(say(&["set"]).0, Some(2), "no limit is named");
}

#[test]
fn a_quota_that_is_used_up_is_told_and_has_its_exit_code() {
    let stub = Stub::start(|_: &str| {
        let mut body = problem(429, "quota_exceeded");
        body["detail"] = json!("the tenant's quota allows no more registrations: 3 of 3 are in use");
        (429, body)
    });
    let arguments = ["register", "--name", "web", "--url", "http://a", "--endpoint", &stub.endpoint];
    let (code, _, err) = run(&mut rollcall(&arguments));
    assert_eq!(code, Some(6), "{err}");
    assert!(err.contains("3 of 3 are in use") && err.contains("quota_exceeded"), "{err}");
}

#[test]
fn who_is_checked_is_said_and_what_checks_find_is_shown() {
    let stub = Stub::start(|line: &str| match line {
        _ if line.starts_with("POST") => (400, problem(400, "invalid_request")),
        _ if line.contains("/services/") => {
            let mut checked = service("web-1");
            checked["health"] = json!({"verdict": "degraded", "since": "2026-01-01T00:00:00Z"});
            checked["check"] = json!({"type": "http", "interval_ms": 10_000, "prober": 2, "prober_address": "b:7900",
                "latest": {"checked_at": "2026-01-01T00:01:00Z", "result": "degraded", "in_a_row": 4, "score": 0.667,
                "response_time_ms": 8, "parts": [], "issues": ["endpoint: HTTP code 500"]}});
            (200, checked)
        }
        _ if line.starts_with("PUT") => {
            (200, json!({"scope": "all", "interval_ms": 5_000, "default": false, "enabled": true}))
        }
        _ => (200, json!({"scope": "asked", "default": true, "enabled": false})),
    });
    let say = |arguments: &[&str]| {
        let (code, out, err) = run(rollcall(arguments).args(["--endpoint", &stub.endpoint]));
        assert_eq!(code, Some(0), "{arguments:?}: {err}");
        out
    };
    let usual = say(&["checks", "show"]);
    for part in ["those that ask", "as each asks", "nobody: the default", "checks nothing"] {
        assert!(usual.contains(part), "{part} in {usual}");
    }
    let all = say(&["checks", "set", "all", "--interval-ms", "5000"]);
    assert!(all.contains("all that have a URL") && all.contains("5000 ms, or as each asks"), "{all}");
    assert_eq!(say(&["checks", "reset"]), usual);
    let shown = say(&["get", "web-1"]);
    for part in [
        "by http every 10000 ms, from node 2 at b:7900",
        "degraded 4 times in a row, score 0.667, 8 ms, at 2026-01-01T00:01:00Z: endpoint: HTTP code 500",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let asked: Vec<_> = stub.requests.try_iter().collect();
    assert_eq!(asked[..3], ["GET /api/checks", "PUT /api/checks", "DELETE /api/checks"]);
    let (code, _, err) = run(&mut rollcall(&["checks", "set", "some"]));
    assert_eq!(code, Some(2), "{err}");
    let register = ["register", "--name", "n", "--url", "http://a", "--health-check", "[]"];
    let (code, _, err) = run(&mut rollcall(&register));
    assert_eq!((code, err.contains("expected a JSON object")), (Some(2), true), "{err}");
}

#[test]
fn one_is_picked_and_shown_with_its_rank() {
    let stub = Stub::start(|line: &str| {
        if line.contains("name=nobody") {
            return (404, problem(404, "nobody_fits"));
        }
        let mut picked = service("web-1");
        picked["rank"] = json!({"score": 0.85, "capability": 1.0, "health": 1.0, "proximity": 0.5, "trust": 0.5});
        picked["health"] = json!({"verdict": "healthy", "since": "2026-01-01T00:00:00Z"});
        (
            200,
            json!({"service": picked, "strategy": "weighted", "candidates": 3, "version_range": "^1.4", "revision": 3}),
        )
    });
    let arguments = [
        "pick",
        "--name",
        "web",
        "--strategy",
        "weighted",
        "--split",
        "^1.4:95",
        "--near-region",
        "eu",
        "--near",
        "52.52,-13",
        "--weights",
        "health=1",
        "--prefer",
        "ocr,translate",
        "--explain",
        "--endpoint",
        &stub.endpoint,
    ];
    let (code, out, err) = run(&mut rollcall(&arguments));
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("rank          0.850 (capability 1, health 1, proximity 0.5, trust 0.5)\n"), "{out}");
    assert!(out.contains("checks find   healthy since 2026-01-01T00:00:00Z\n"), "{out}");
    assert!(out.ends_with("picked by weighted from 3 in ^1.4\n"), "{out}");
    let asked = stub.requests.recv().expect("a request");
    let (_, query) = asked.split_once("/api/services/pick?").expect("a query");
    let pairs: BTreeMap<_, _> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
    for (name, value) in [
        ("name", "web"),
        ("strategy", "weighted"),
        ("split", "%5E1.4%3A95"),
        ("rank_weights", "capability%3A0%2Chealth%3A1%2Cproximity%3A0%2Ctrust%3A0"),
        ("requester_region", "eu"),
        ("requester_latitude", "52.52"),
        ("requester_longitude", "-13"),
        ("explain", "true"),
    ] {
        assert_eq!(pairs.get(name), Some(&value), "{query}");
    }
    let (code, _, err) = run(&mut rollcall(&["pick", "--name", "nobody", "--endpoint", &stub.endpoint]));
    assert_eq!(code, Some(3), "{err}");
}

#[test]
fn protection_is_said_and_shown() {
    let stub = Stub::start(|line: &str| {
        let rule = json!({"share": 0.3, "window_ms": 5000, "release_per_minute": 60, "leases_min": 10});
        let stands = json!({"protection": rule, "in_force": true, "since": "2026-01-01T00:00:00Z", "begun": 2,
            "suspects": 5, "instances": 12, "revision": 4});
        let off = json!({"in_force": false, "begun": 0, "suspects": 0, "instances": 12, "revision": 4});
        (200, if line.starts_with("DELETE") { off } else { stands })
    });
    let say = |arguments: &[&str]| {
        let (code, out, err) = run(rollcall(arguments).args(["--endpoint", &stub.endpoint]));
        assert_eq!(code, Some(0), "{arguments:?}: {err}");
        out
    };
    let shown = say(&["protection", "set", "--share", "0.3", "--window-ms", "5000"]);
    let expected = "held are      more than 0.3 of at least 10 leases within 5000 ms\n\
                    released are  60 in a minute\n\
                    in force      since 2026-01-01T00:00:00Z\n\
                    begun         2 times\n\
                    suspects      5 of 12 instances\n";
    assert_eq!(shown, expected);
    assert_eq!(say(&["protection", "show"]), expected);
    say(&["protection", "release"]);
    assert!(say(&["protection", "off"]).starts_with("held are      leases are never held\n"));
    let asked: Vec<_> = stub.requests.try_iter().collect();
    let release = "POST /api/protection/release";
    assert_eq!(asked, ["PUT /api/protection", "GET /api/protection", release, "DELETE /api/protection"]);
    let (code, _, err) = run(&mut rollcall(&["protection", "set"]));
    assert_eq!(code, Some(2), "{err}");
}

#[test]
fn targets_of_alerts_are_set_listed_tested_and_removed() {
    let stub = Stub::start(|line: &str| {
        let target =
            json!({"name": "pager", "url": "https://a/b", "format": "json", "interval_ms": 0, "told_revision": 7});
        let answer = match line.split(' ').next() {
            Some("PUT") => json!({"target": target, "secret": "made up"}),
            Some("DELETE") => json!({"name": "pager", "removed": true}),
            Some("POST") if line.contains("bad") => {
                json!({"name": "bad", "delivered": false, "error": "answered 503", "status": 503})
            }
            Some("POST") => json!({"name": "pager", "delivered": true, "status": 200}),
            _ => json!({"targets": [target]}),
        };
        (200, answer)
    });
    let say = |arguments: &[&str]| run(rollcall(arguments).args(["--endpoint", &stub.endpoint]));
    let (code, out, err) = say(&["alerts", "set", "pager", "--url", "https://a/b", "--format", "json"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.ends_with("told only now:\nmade up\n"), "{out}");
    let (_, listed, _) = say(&["alerts", "list"]);
    let expected = "NAME   FORMAT  INTERVAL  TOLD UP TO  URL\npager  json    0 ms      7           https://a/b\n";
    assert_eq!(listed, expected);
    assert_eq!(say(&["alerts", "test", "pager"]).1, "pager took a test alert\n");
    let (code, _, err) = say(&["alerts", "test", "bad"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("answered 503"), "{err}");
    assert_eq!(say(&["alerts", "remove", "pager"]).1, "alerts do not go to pager\n");
    let asked: Vec<_> = stub.requests.try_iter().collect();
    let tests = ["POST /api/alerts/pager/test", "POST /api/alerts/bad/test"];
    assert_eq!(asked[..2], ["PUT /api/alerts/pager", "GET /api/alerts"]);
    assert_eq!((&asked[2..4], &*asked[4]), (&tests.map(str::to_owned)[..], "DELETE /api/alerts/pager"));
}
