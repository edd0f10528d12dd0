//! The table of access tokens, beside the roll: it takes no revision and is no event.
//!
//! The state knows the digest of a secret and never the secret. Whether a token is good is judged by cluster time. One that
//! was revoked or has expired keeps its row until room is needed, so that who brings it is told why it opens nothing.

use std::collections::BTreeMap;

use super::State;
use super::touched::{TableDelta, Touched};
use crate::access::{
    ACCESS_TOKEN_OVERLAP_MS_MAX, ACCESS_TOKEN_TTL_MS_MAX, ACCESS_TOKEN_USE_INTERVAL_MS, ACCESS_TOKENS_MAX,
    ACCESS_TOKENS_MAX_OF_TENANT, ACCESS_TOKENS_USED_MAX, AccessDenied, AccessRole, AccessToken, AccessTokenCommand,
    AccessTokenId, AccessTokenRefusal, FormerSecret, Grant, NewAccessToken, Reach, SecretDigest,
};
use crate::command::{Outcome, Refusal};
use crate::digest::{self, RowSum};
use crate::ids::{ClusterTime, TenantId};

pub type AccessTokenDelta = TableDelta<AccessTokenId, AccessToken>;

#[derive(Debug, Default)]
pub(super) struct AccessTokens {
    rows: BTreeMap<AccessTokenId, AccessToken>,
    /// How many each tenant has; those over all tenants are nobody's.
    by_tenant: BTreeMap<TenantId, usize>,
    /// Of all rows: another one says that something changed.
    sum: RowSum,
    touched: Touched<AccessTokenId>,
}

impl AccessTokens {
    fn put(&mut self, row: AccessToken, all: &mut RowSum) {
        let digest = digest::of_access_token(&row);
        let (id, tenant) = (row.id, tenant_of(&row).cloned());
        let before = self.rows.insert(id, row);
        self.sum.add(digest);
        all.add(digest);
        self.touched.touch(id);
        match before {
            // A token keeps its reach for life.
            Some(before) => self.forget(&before, all),
            None => {
                if let Some(tenant) = tenant {
                    *self.by_tenant.entry(tenant).or_default() += 1;
                }
            }
        }
    }

    fn remove(&mut self, id: AccessTokenId, all: &mut RowSum) {
        let Some(row) = self.rows.remove(&id) else { return };
        self.forget(&row, all);
        self.touched.touch(id);
        if let Some(tenant) = tenant_of(&row)
            && let Some(count) = self.by_tenant.get_mut(tenant)
        {
            *count -= 1;
            if *count == 0 {
                self.by_tenant.remove(tenant);
            }
        }
    }

    fn forget(&mut self, row: &AccessToken, all: &mut RowSum) {
        let digest = digest::of_access_token(row);
        self.sum.remove(digest);
        all.remove(digest);
    }

    fn of_tenant(&self, tenant: &TenantId) -> usize {
        self.by_tenant.get(tenant).copied().unwrap_or(0)
    }

    pub(super) fn take_delta(&mut self) -> AccessTokenDelta {
        self.touched.take(|id| self.rows.get(id).cloned())
    }

    pub(super) fn assert_consistent(&self, all: &mut RowSum) {
        let (mut sum, mut by_tenant) = (RowSum::default(), BTreeMap::<_, usize>::new());
        for row in self.rows.values() {
            let digest = digest::of_access_token(row);
            sum.add(digest);
            all.add(digest);
            if let Some(tenant) = tenant_of(row) {
                *by_tenant.entry(tenant.clone()).or_default() += 1;
            }
        }
        assert_eq!(self.sum, sum, "the sum over access tokens strayed");
        assert_eq!(self.by_tenant, by_tenant, "the counts of tenants' access tokens strayed");
    }
}

fn tenant_of(row: &AccessToken) -> Option<&TenantId> {
    match &row.reach {
        Reach::Tenant(tenant) => Some(tenant),
        Reach::All => None,
    }
}

impl State {
    /// All access tokens by their ids, those that are over and were not cleared away yet among them.
    pub fn access_tokens(&self) -> impl Iterator<Item = &AccessToken> {
        self.access_tokens.rows.values()
    }

    /// Another one when any access token has changed.
    pub fn access_tokens_mark(&self) -> u128 {
        self.access_tokens.sum.mark()
    }

    /// The token that a secret proves at this cluster time, which may be later than that of the last entry.
    pub fn check_access(
        &self,
        id: AccessTokenId,
        secret: &SecretDigest,
        now: ClusterTime,
    ) -> Result<&AccessToken, AccessDenied> {
        let token = self.access_tokens.rows.get(&id).ok_or(AccessDenied::Unknown)?;
        if token.secret != *secret {
            let former = token.former.as_ref().filter(|former| former.secret == *secret);
            let former = former.ok_or(AccessDenied::Unknown)?;
            if former.until <= now {
                return Err(AccessDenied::Rotated);
            }
        }
        if token.revoked_at.is_some() {
            return Err(AccessDenied::Revoked);
        }
        if token.is_over(now) {
            return Err(AccessDenied::Expired);
        }
        Ok(token)
    }

    pub(super) fn access_token(&mut self, command: &AccessTokenCommand) -> Result<Outcome, Refusal> {
        let row = match command {
            AccessTokenCommand::Create { token, first } => {
                if *first && !self.access_tokens.rows.is_empty() {
                    return Err(AccessTokenRefusal::NotFirst.into());
                }
                self.new_access_token(token)?
            }
            AccessTokenCommand::Rotate { id, secret, overlap_ms, within } => {
                self.rotated(*id, *secret, *overlap_ms, within)?
            }
            AccessTokenCommand::Revoke { id, within } => {
                let row = self.access_tokens.rows.get(id).filter(|row| within.covers(&row.reach));
                let row = row.ok_or(AccessTokenRefusal::Unknown)?;
                // Whoever repeats it is told what the first time did.
                AccessToken { revoked_at: row.revoked_at.or(Some(self.wall)), former: None, ..row.clone() }
            }
            AccessTokenCommand::Used { ids } => {
                ids.iter().take(ACCESS_TOKENS_USED_MAX).for_each(|id| self.note_use(*id));
                return Ok(Outcome::Noted);
            }
            AccessTokenCommand::Reset { token } => {
                // What cannot be made must not cost what is there.
                let made = self.new_access_token(token)?;
                self.revoke_administrators();
                made
            }
        };
        self.access_tokens.put(row.clone(), &mut self.rows);
        Ok(Outcome::AccessToken(Box::new(row)))
    }

    /// A row that there is room for.
    fn new_access_token(&mut self, token: &NewAccessToken) -> Result<AccessToken, AccessTokenRefusal> {
        if !token.is_within_bounds() {
            return Err(AccessTokenRefusal::OutOfBounds);
        }
        if self.access_tokens.rows.contains_key(&token.id) {
            return Err(AccessTokenRefusal::Exists);
        }
        let tenant = match &token.reach {
            Reach::Tenant(tenant) => Some(tenant),
            Reach::All => None,
        };
        let full = |tokens: &AccessTokens| {
            let max = |max| u32::try_from(max).unwrap_or(u32::MAX);
            if tenant.is_some_and(|tenant| tokens.of_tenant(tenant) >= ACCESS_TOKENS_MAX_OF_TENANT) {
                Some(AccessTokenRefusal::TooManyOfTenant { max: max(ACCESS_TOKENS_MAX_OF_TENANT) })
            } else if tokens.rows.len() >= ACCESS_TOKENS_MAX {
                Some(AccessTokenRefusal::TooMany { max: max(ACCESS_TOKENS_MAX) })
            } else {
                None
            }
        };
        if full(&self.access_tokens).is_some() {
            self.clear_access_tokens_that_are_over();
        }
        if let Some(refusal) = full(&self.access_tokens) {
            return Err(refusal);
        }
        let NewAccessToken { id, secret, reach, role, scopes, ttl_ms, description, created_by } = token.clone();
        Ok(AccessToken {
            id,
            secret,
            former: None,
            reach,
            role,
            scopes,
            expires_at: ttl_ms.map(|ttl_ms| self.now.plus_ms(ttl_ms)),
            description,
            created_by,
            created_at: self.wall,
            rotated_at: None,
            used_at: None,
            use_noted_at: None,
            revoked_at: None,
        })
    }

    fn rotated(
        &self,
        id: AccessTokenId,
        secret: SecretDigest,
        overlap_ms: u64,
        within: &Grant,
    ) -> Result<AccessToken, AccessTokenRefusal> {
        if overlap_ms > ACCESS_TOKEN_OVERLAP_MS_MAX {
            return Err(AccessTokenRefusal::OutOfBounds);
        }
        let row = self.access_tokens.rows.get(&id).filter(|row| within.reach.covers(&row.reach));
        let row = row.ok_or(AccessTokenRefusal::Unknown)?;
        if row.is_over(self.now) {
            return Err(AccessTokenRefusal::Over);
        }
        // Who rotates it is told its secret.
        if !within.covers(&row.reach, &row.scopes) {
            return Err(AccessTokenRefusal::BeyondGrant);
        }
        let until = self.now.plus_ms(overlap_ms);
        let former = Some(FormerSecret { secret: row.secret, until });
        Ok(AccessToken { secret, former, rotated_at: Some(self.wall), ..row.clone() })
    }

    /// Nodes tell of the same use, each as coarsely as it is noted.
    fn note_use(&mut self, id: AccessTokenId) {
        let Some(row) = self.access_tokens.rows.get(&id) else { return };
        let is_due = row.use_noted_at.is_none_or(|at| at.ms_until(self.now) >= ACCESS_TOKEN_USE_INTERVAL_MS / 2);
        if is_due {
            let row = AccessToken { used_at: Some(self.wall), use_noted_at: Some(self.now), ..row.clone() };
            self.access_tokens.put(row, &mut self.rows);
        }
    }

    fn revoke_administrators(&mut self) {
        let rows = self.access_tokens.rows.values();
        let administers_all =
            |row: &&AccessToken| row.role == AccessRole::Admin && row.reach == Reach::All && row.revoked_at.is_none();
        let revoked: Vec<_> = rows
            .filter(administers_all)
            .map(|row| AccessToken { revoked_at: Some(self.wall), former: None, ..row.clone() })
            .collect();
        revoked.into_iter().for_each(|row| self.access_tokens.put(row, &mut self.rows));
    }

    fn clear_access_tokens_that_are_over(&mut self) {
        let rows = self.access_tokens.rows.values();
        let over: Vec<_> = rows.filter(|row| row.is_over(self.now)).map(|row| row.id).collect();
        over.into_iter().for_each(|id| self.access_tokens.remove(id, &mut self.rows));
    }

    /// A row that is in the checkpoint. False if it cannot be one.
    pub(super) fn restore_access_token(&mut self, row: AccessToken) -> bool {
        let (now, wall, id) = (self.now, self.wall, row.id);
        let within = self.access_tokens.rows.len() < ACCESS_TOKENS_MAX
            && row.expires_at.is_none_or(|at| at <= now.plus_ms(ACCESS_TOKEN_TTL_MS_MAX))
            && row.former.as_ref().is_none_or(|former| former.until <= now.plus_ms(ACCESS_TOKEN_OVERLAP_MS_MAX))
            && row.use_noted_at.is_none_or(|at| at <= now)
            && [Some(row.created_at), row.rotated_at, row.used_at, row.revoked_at]
                .into_iter()
                .flatten()
                .all(|at| at <= wall);
        if !within || self.access_tokens.rows.contains_key(&id) {
            return false;
        }
        self.access_tokens.put(row, &mut self.rows);
        self.access_tokens.touched.restored(id);
        true
    }
}
