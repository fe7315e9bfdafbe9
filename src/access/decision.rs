//! All rules of one listener: whether a call is let in.

use std::{cell::OnceCell, sync::Arc};

use super::{
    jwt::{self, Claims, TokenError},
    keys::Provider,
    rule::{Call, Caller, Holds, Rule, Target},
};
use crate::{
    config::model::{AccessAction, AccessRule},
    http::fields::Fields,
    telemetry::{AccessDecision, AccessMetrics},
};

/// Rules of one listener, compiled; there is at least one.
#[derive(Debug)]
pub struct Policy {
    /// Those that deny come first.
    rules: Box<[Rule]>,
    providers: Box<[Arc<Provider>]>,
    /// Whether some rules only look on.
    audits: bool,
    /// Counts what no rule decided.
    unruled: Arc<AccessMetrics>,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// By this rule; by none where none allows, and so all may.
    Allowed { rule: Option<usize> },
    /// By this rule; by none where some allow, and none of them held. `token`: one would have held
    /// with a valid token.
    Denied {
        rule: Option<usize>,
        token: Option<TokenError>,
    },
}

/// What becomes of a call, and what would if the rules that only look on were in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub decision: Decision,
    /// `None` where no rule only looks on.
    pub audit: Option<Decision>,
}

impl Decision {
    pub const fn is_allowed(self) -> bool {
        matches!(self, Self::Allowed { .. })
    }

    const fn rule(self) -> Option<usize> {
        match self {
            Self::Allowed { rule } | Self::Denied { rule, .. } => rule,
        }
    }
}

impl Policy {
    /// The rules that a listener has, in the order of the file, each with what counts for it.
    /// `unruled` counts what none of them decides. `None` without rules.
    ///
    /// # Panics
    /// If a rule names a provider that is not among `providers`.
    pub fn new(
        rules: impl IntoIterator<Item = (Arc<AccessRule>, Arc<AccessMetrics>)>,
        providers: impl Fn(&str) -> Arc<Provider>,
        unruled: impl FnOnce() -> Arc<AccessMetrics>,
    ) -> Option<Self> {
        let mut named: Vec<Arc<Provider>> = Vec::new();
        let mut place = |name: &str| {
            let known = named
                .iter()
                .position(|provider| *provider.config.name == *name);
            known.unwrap_or_else(|| {
                named.push(providers(name));
                named.len() - 1
            })
        };
        let compile = |(config, metrics): (Arc<AccessRule>, _)| Rule {
            provider: config.jwt.as_ref().map(|jwt| place(&jwt.provider)),
            config,
            metrics,
        };
        let mut rules: Vec<Rule> = rules.into_iter().map(compile).collect();
        rules.sort_by_key(|rule| rule.config.action);
        (!rules.is_empty()).then(|| Self {
            audits: rules.iter().any(|rule| rule.config.audit),
            rules: rules.into(),
            providers: named.into(),
            unruled: unruled(),
        })
    }

    /// Whether two decide alike, whatever is asked.
    pub fn is_same(&self, other: &Self) -> bool {
        let mine = self.rules.iter().map(|rule| &rule.config);
        let same = |(mine, theirs)| Arc::ptr_eq(mine, theirs);
        mine.eq(other.rules.iter().map(|rule| &rule.config))
            && self.providers.len() == other.providers.len()
            && self.providers.iter().zip(&other.providers).all(same)
    }

    /// Decides. `now` is in seconds since 1970.
    pub fn decide(&self, caller: &Caller<'_>, target: &Target<'_>, now: u64) -> Verdict {
        // At most once, whatever the number of rules that ask for it, and only if one does.
        let verified = OnceCell::new();
        let token = |provider: usize| self.token(&verified, provider, target.call(), now);
        let decision = self.decide_among(|rule| !rule.config.audit, caller, target, token);
        let audit = self
            .audits
            .then(|| self.decide_among(|_| true, caller, target, token));
        Verdict { decision, audit }
    }

    fn decide_among<'c>(
        &self,
        counts: impl Fn(&Rule) -> bool,
        caller: &Caller<'_>,
        target: &Target<'_>,
        token: impl Fn(usize) -> Result<&'c Claims, TokenError>,
    ) -> Decision {
        let (mut restricted, mut missed) = (false, None);
        for (index, rule) in self.rules.iter().enumerate() {
            if !counts(rule) {
                continue;
            }
            let holds = rule.holds(caller, target, &token);
            match (rule.config.action, holds) {
                (AccessAction::Deny, Holds::Yes) => {
                    return Decision::Denied {
                        rule: Some(index),
                        token: None,
                    };
                }
                (AccessAction::Deny, _) => {}
                (AccessAction::Allow, Holds::Yes) => {
                    return Decision::Allowed { rule: Some(index) };
                }
                (AccessAction::Allow, Holds::No) => restricted = true,
                (AccessAction::Allow, Holds::WithoutToken(error)) => {
                    restricted = true;
                    missed.get_or_insert(error);
                }
            }
        }
        match restricted {
            true => Decision::Denied {
                rule: None,
                token: missed,
            },
            false => Decision::Allowed { rule: None },
        }
    }

    /// The claims of the request's token for one provider. All are looked at together: most
    /// policies name one, and a token of another issuer is told before a signature is verified.
    fn token<'c>(
        &self,
        verified: &'c OnceCell<Verified>,
        provider: usize,
        call: Option<&Call<'_>>,
        now: u64,
    ) -> Result<&'c Claims, TokenError> {
        let verify = |provider: &Arc<Provider>| {
            let fields = call.ok_or(TokenError::Missing)?.fields;
            let token = jwt::find(&provider.config.header, fields)?;
            let verified = jwt::verify(token, &provider.keys(), &provider.config, now);
            if let Err(TokenError::NoKey) = verified {
                provider.want();
            }
            verified
        };
        let all = verified.get_or_init(|| self.providers.iter().map(verify).collect());
        all[provider].as_ref().map_err(|error| *error)
    }

    /// Counts what was decided.
    pub fn count(&self, worker: usize, verdict: &Verdict) {
        let decided = |decision: Decision, yes, no| match decision.is_allowed() {
            true => (decision.rule(), yes),
            false => (decision.rule(), no),
        };
        let count = |(rule, what): (Option<usize>, AccessDecision)| {
            let metrics = rule.map_or(&self.unruled, |rule| &self.rules[rule].metrics);
            metrics.decided(worker, what);
        };
        count(decided(
            verdict.decision,
            AccessDecision::Allowed,
            AccessDecision::Denied,
        ));
        if let Some(audit) = verdict.audit {
            count(decided(
                audit,
                AccessDecision::AuditAllowed,
                AccessDecision::AuditDenied,
            ));
        }
    }

    /// What the access log says of a decision that audited rules would have turned; `None` if they
    /// would not.
    pub fn audit_note(&self, verdict: &Verdict) -> Option<String> {
        let audit = verdict.audit?;
        if audit.is_allowed() == verdict.decision.is_allowed() {
            return None;
        }
        let name = self.name(audit);
        Some(match (audit.is_allowed(), name) {
            (true, Some(name)) => format!("audit: rule `{name}` would allow"),
            (true, None) => "audit: it would be allowed".to_owned(),
            (false, Some(name)) => format!("audit: rule `{name}` would deny"),
            (false, None) => "audit: no rule would allow".to_owned(),
        })
    }

    /// The name of the rule that decided, if one did.
    pub fn name(&self, decision: Decision) -> Option<&Arc<str>> {
        decision.rule().map(|rule| &self.rules[rule].config.name)
    }

    /// Takes tokens away that are not to travel on.
    pub fn take_tokens(&self, fields: &mut Fields) {
        for provider in &self.providers {
            if !provider.config.forward {
                jwt::take_away(&provider.config.header, fields);
            }
        }
    }
}

/// What came of a request's tokens, for every provider of the policy.
type Verified = Box<[Result<Claims, TokenError>]>;
