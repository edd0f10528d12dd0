//! JSON Schema at the edge: whether a payload is what a schema says, and whether one version of a schema may follow another.
//!
//! Both are judged here and not in the state machine, which knows schemas as texts: what a library judges may differ from
//! one release to the next, and replicas may not.

mod compare;
mod validate;

pub(crate) use compare::incompatibilities;
pub(crate) use validate::{SchemaError, Validators};
