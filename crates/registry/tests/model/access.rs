//! Access tokens as the model has them.

use rollcall_registry::{
    AccessRole, AccessToken, AccessTokenCommand, AccessTokenRefusal, ClusterTime, FormerSecret, NewAccessToken, Reach,
};

use crate::model::Model;

const HOUR_MS: u64 = 3_600_000;
const OVERLAP_MS_MAX: u64 = 7 * 24 * HOUR_MS;

/// None where uses were noted.
pub(crate) fn apply(
    model: &mut Model,
    command: &AccessTokenCommand,
) -> Result<Option<AccessToken>, AccessTokenRefusal> {
    let (now, wall) = (model.now, model.wall);
    let is_over = |token: &AccessToken| token.revoked_at.is_some() || token.expires_at.is_some_and(|at| at <= now);
    let is_within = |within: &Reach, token: &AccessToken| *within == Reach::All || *within == token.reach;
    let token = match command {
        AccessTokenCommand::Create { first: true, .. } if !model.access_tokens.is_empty() => {
            return Err(AccessTokenRefusal::NotFirst);
        }
        AccessTokenCommand::Create { token, .. } => made(model, token)?,
        AccessTokenCommand::Reset { token } => {
            let token = made(model, token)?;
            for other in model.access_tokens.values_mut() {
                if other.role == AccessRole::Admin && other.reach == Reach::All && other.revoked_at.is_none() {
                    (other.revoked_at, other.former) = (Some(wall), None);
                }
            }
            token
        }
        AccessTokenCommand::Rotate { overlap_ms, .. } if *overlap_ms > OVERLAP_MS_MAX => {
            return Err(AccessTokenRefusal::OutOfBounds);
        }
        AccessTokenCommand::Rotate { id, secret, overlap_ms, within } => {
            let before = model.access_tokens.get(id).filter(|token| is_within(&within.reach, token));
            let before = before.ok_or(AccessTokenRefusal::Unknown)?;
            if is_over(before) {
                return Err(AccessTokenRefusal::Over);
            }
            let verbs =
                |token: &AccessToken| within.scopes.verbs.is_empty() || within.scopes.verbs == token.scopes.verbs;
            let services = |token: &AccessToken| match (&within.scopes.services[..], &token.scopes.services[..]) {
                ([], _) => true,
                (_, []) => false,
                ([own], [others]) => others.starts_with(&**own),
                _ => unreachable!("the world has one prefix at most"),
            };
            if !verbs(before) || !services(before) {
                return Err(AccessTokenRefusal::BeyondGrant);
            }
            let former = Some(FormerSecret { secret: before.secret, until: ClusterTime(now.0 + overlap_ms) });
            AccessToken { secret: *secret, former, rotated_at: Some(wall), ..before.clone() }
        }
        AccessTokenCommand::Revoke { id, within } => {
            let before = model.access_tokens.get(id).filter(|token| is_within(within, token));
            let before = before.ok_or(AccessTokenRefusal::Unknown)?.clone();
            AccessToken { revoked_at: before.revoked_at.or(Some(wall)), former: None, ..before }
        }
        AccessTokenCommand::Used { ids } => {
            for id in ids {
                if let Some(token) = model.access_tokens.get_mut(id)
                    && token.use_noted_at.is_none_or(|at| now.0 - at.0 >= HOUR_MS / 2)
                {
                    (token.used_at, token.use_noted_at) = (Some(wall), Some(now));
                }
            }
            return Ok(None);
        }
    };
    model.access_tokens.insert(token.id, token.clone());
    Ok(Some(token))
}

fn made(model: &Model, token: &NewAccessToken) -> Result<AccessToken, AccessTokenRefusal> {
    let NewAccessToken { id, secret, reach, role, scopes, ttl_ms, description, created_by } = token.clone();
    if ttl_ms == Some(0) {
        return Err(AccessTokenRefusal::OutOfBounds);
    }
    if model.access_tokens.contains_key(&id) {
        return Err(AccessTokenRefusal::Exists);
    }
    Ok(AccessToken {
        id,
        secret,
        former: None,
        reach,
        role,
        scopes,
        expires_at: ttl_ms.map(|ttl_ms| ClusterTime(model.now.0 + ttl_ms)),
        description,
        created_by,
        created_at: model.wall,
        rotated_at: None,
        used_at: None,
        use_noted_at: None,
        revoked_at: None,
    })
}
