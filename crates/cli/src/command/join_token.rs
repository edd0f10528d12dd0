//! `rollcall cluster join-token`.

use rollcall_api::{CreateJoinTokenRequest, JoinTokensResponse, Role};
use rollcall_client::Client;

use super::{attempt, bare_token_id as bare, spoken_time as time};
use crate::args::{Global, JoinToken, JoinTokenStep};
use crate::failure::Failure;
use crate::output::{self, Format, Table};

pub(super) async fn run(global: &Global, client: &Client, args: &JoinToken) -> Result<(), Failure> {
    // Not clap's `args_conflicts_with_subcommands`, which counts the global flags as well.
    if args.step.is_some() && (args.ttl.is_some() || args.uses.is_some() || args.learner) {
        let what = "--ttl, --uses and --learner are for a token that is made; they go with no other step".to_owned();
        return Err(Failure::Usage { what });
    }
    match &args.step {
        None => create(global, client, args).await,
        Some(JoinTokenStep::List) => {
            let tokens = attempt("list the join tokens", client.join_tokens().await)?;
            output::show(global.output, &tokens, describe)
        }
        Some(JoinTokenStep::Revoke { id }) => {
            let id = bare(id);
            let revoked = attempt(format!("revoke join token `{id}`"), client.revoke_join_token(id).await)?;
            output::show(global.output, &revoked, |revoked| format!("join token {} was revoked\n", revoked.id))
        }
    }
}

/// Standard output gets the token and nothing else, for whoever puts it into a variable.
async fn create(global: &Global, client: &Client, args: &JoinToken) -> Result<(), Failure> {
    let request = CreateJoinTokenRequest {
        ttl_ms: args.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
        uses: args.uses,
        role: args.learner.then_some(Role::Learner),
    };
    let created = attempt("make a join token", client.create_join_token(&request).await)?;
    if global.output == Format::Table {
        let info = &created.info;
        let uses = info.uses_max.map_or("any number of nodes".to_owned(), |uses| format!("{uses} nodes at most"));
        let role = if info.role == Role::Learner { ", learners only" } else { "" };
        output::note(&format!(
            "note: join token {} admits {uses}{role} within {}; it is shown this once",
            info.id,
            time(info.expires_in_ms)
        ));
    }
    output::show(global.output, &created, |created| format!("{}\n", created.token))
}

fn describe(answer: &JoinTokensResponse) -> String {
    if answer.tokens.is_empty() {
        return "no join tokens\n".to_owned();
    }
    let mut table = Table::new(&["ID", "ROLE", "LEFT", "USED", "ADMITTED", "MADE"]);
    for token in &answer.tokens {
        let left = match token.expires_in_ms {
            0 => "expired".to_owned(),
            ms => time(ms),
        };
        let uses = token.uses_max.map_or_else(|| "any".to_owned(), |uses| uses.to_string());
        table.row(vec![
            token.id.clone(),
            if token.role == Role::Learner { "learner" } else { "voter" }.to_owned(),
            left,
            format!("{} of {uses}", token.uses),
            if token.admitted.is_empty() { "-".to_owned() } else { token.admitted.join(", ") },
            token.created_at.clone(),
        ]);
    }
    table.render()
}
