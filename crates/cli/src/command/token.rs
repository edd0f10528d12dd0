//! `rollcall token`.

use std::time::Duration;

use rollcall_api::{CreatedToken, RotateTokenRequest, TokenStatus, TokensResponse};
use rollcall_client::Client;
use serde_json::{Map, Value, json};

use super::{attempt, bare_token_id as bare, client_of_tenant, spoken_time as time, token_reset};
use crate::args::{Global, Token, TokenCreate, TokenRotate};
use crate::failure::Failure;
use crate::output::{self, Format, Table};

pub(super) async fn run(global: &Global, args: Token) -> Result<(), Failure> {
    if let Token::Reset(args) = &args {
        return token_reset::run(global, args).await;
    }
    // The tenant that is named is the token's, and not that of the request: it may be all.
    let client = client_of_tenant(global, None)?;
    match args {
        Token::Create(args) => create(global, &client, args).await,
        Token::List => {
            let tokens = attempt("list the tokens", client.tokens().await)?;
            output::show(global.output, &tokens, describe)
        }
        Token::Revoke { id } => {
            let id = bare(&id);
            let revoked = attempt(format!("revoke token `{id}`"), client.revoke_token(id).await)?;
            output::show(global.output, &revoked, |revoked| format!("token {} was revoked\n", revoked.id))
        }
        Token::Rotate(TokenRotate { id, overlap }) => {
            let id = bare(&id);
            let request = RotateTokenRequest { overlap_ms: overlap.map(ms) };
            let rotated = attempt(format!("rotate token `{id}`"), client.rotate_token(id, &request).await)?;
            let before = overlap.map_or_else(
                || "the one before opens nothing any more".to_owned(),
                |overlap| format!("the one before is good for another {}", time(ms(overlap))),
            );
            show_secret(global, &rotated, &format!("token {id} has a new secret, shown this once; {before}"))
        }
        Token::Reset(_) => unreachable!("a reset asks no node"),
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

async fn create(global: &Global, client: &Client, args: TokenCreate) -> Result<(), Failure> {
    let TokenCreate { role, services, verbs, ttl, description } = args;
    // The node says what is wrong with a word, and all faults at once.
    let mut request = Map::from_iter([("role".to_owned(), Value::from(role))]);
    let mut add = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            request.insert(name.to_owned(), value);
        }
    };
    add("tenant", global.tenant.clone().map(Value::from));
    add("services", (!services.is_empty()).then(|| json!(services)));
    add("verbs", (!verbs.is_empty()).then(|| json!(verbs)));
    add("ttl_ms", ttl.map(|ttl| json!(ms(ttl))));
    add("description", description.map(Value::from));
    let created = attempt("make a token", client.create_token(&Value::Object(request)).await)?;
    let info = &created.info;
    let reach = if info.tenant == "*" { "all tenants".to_owned() } else { format!("tenant {}", info.tenant) };
    let life = info.expires_in_ms.map_or_else(|| "until it is revoked".to_owned(), |ms| format!("for {}", time(ms)));
    let role = word(&info.role);
    show_secret(
        global,
        &created,
        &format!("token {} has role {role} for {reach}, {life}; it is shown this once", info.id),
    )
}

/// Standard output gets the token and nothing else, for whoever puts it into a variable.
fn show_secret(global: &Global, created: &CreatedToken, note: &str) -> Result<(), Failure> {
    if global.output == Format::Table {
        output::note(&format!("note: {note}"));
    }
    output::show(global.output, created, |created| format!("{}\n", created.token))
}

/// As it stands in JSON.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => String::new(),
    }
}

fn describe(answer: &TokensResponse) -> String {
    if answer.tokens.is_empty() {
        return "no tokens\n".to_owned();
    }
    let mut table = Table::new(&["ID", "TENANT", "ROLE", "SERVICES", "VERBS", "STATUS", "LEFT", "LAST USED", "FOR"]);
    let listed = |texts: Vec<String>| if texts.is_empty() { "any".to_owned() } else { texts.join(",") };
    for token in &answer.tokens {
        let left = match (token.status, token.expires_in_ms) {
            (TokenStatus::Active, Some(ms)) => time(ms),
            (TokenStatus::Active, None) | (TokenStatus::Expired | TokenStatus::Revoked, _) => "-".to_owned(),
        };
        table.row(vec![
            token.id.clone(),
            token.tenant.clone(),
            word(&token.role),
            listed(token.services.iter().map(|prefix| format!("{prefix}*")).collect()),
            listed(token.verbs.iter().map(word).collect()),
            word(&token.status),
            left,
            token.last_used_at.clone().unwrap_or_else(|| "never".to_owned()),
            token.description.clone(),
        ]);
    }
    table.render()
}
