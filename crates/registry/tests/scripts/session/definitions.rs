//! What the script language says of definitions.

use std::fmt::Write as _;

use rollcall_registry::{
    Compared, Defined, Definition, DefinitionChange, DefinitionContent, DefinitionKey, DefinitionName, Edition,
    EventDefinition, SchemaDefinition, State,
};

use super::arguments::Arguments;

fn name(text: &str) -> Result<DefinitionName, String> {
    DefinitionName::parse(text).map_err(|e| format!("`{text}`: {e}"))
}

fn subject(arguments: &mut Arguments) -> Result<DefinitionName, String> {
    name(&arguments.subject::<String>()?)
}

fn version(arguments: &mut Arguments) -> Result<DefinitionName, String> {
    name(&arguments.take("version").unwrap_or_else(|| "1.0.0".to_owned()))
}

fn document(arguments: &mut Arguments, key: &str) -> Box<str> {
    let text = arguments.take(key).unwrap_or_else(|| "{}".to_owned());
    match text.strip_prefix("filler:").and_then(|n| n.parse().ok()) {
        Some(bytes) => "x".repeat(bytes).into(),
        None => text.into(),
    }
}

fn edition(arguments: &mut Arguments, key: &str) -> Result<Option<Edition>, String> {
    let Some(text) = arguments.take(key) else { return Ok(None) };
    let number = text.strip_prefix('e').and_then(|n| n.parse().ok());
    number.map(|n| Some(Edition(n))).ok_or_else(|| format!("{key}: `{text}` is no edition"))
}

/// None if the verb is none of these.
pub(super) fn change(verb: &str, arguments: &mut Arguments) -> Result<Option<DefinitionChange>, String> {
    Ok(Some(match verb {
        "define_event" => DefinitionChange::Event(EventDefinition {
            name: subject(arguments)?,
            topic: arguments.take("topic").unwrap_or_else(|| "facts".to_owned()).into(),
            document: document(arguments, "document"),
        }),
        "define_schema" => DefinitionChange::Schema {
            schema: SchemaDefinition {
                name: subject(arguments)?,
                version: version(arguments)?,
                owner: arguments.take("owner").map(Into::into),
                description: arguments.take("description").map(Into::into),
                schema: document(arguments, "schema"),
            },
            compared: Compared {
                mode: arguments.word("mode")?.unwrap_or_default(),
                latest: edition(arguments, "latest")?,
            },
        },
        "set_compatibility" => DefinitionChange::Compatibility {
            name: subject(arguments)?,
            mode: arguments.word("mode")?.ok_or("mode is missing")?,
        },
        "undefine" => DefinitionChange::Remove(match arguments.subject::<String>()?.as_str() {
            "event" => DefinitionKey::Event(named(arguments)?),
            "schema" => DefinitionKey::Schema(named(arguments)?, version(arguments)?),
            "compatibility" => DefinitionKey::Compatibility(named(arguments)?),
            other => return Err(format!("`{other}` is no sort of definition")),
        }),
        _ => return Ok(None),
    }))
}

fn named(arguments: &mut Arguments) -> Result<DefinitionName, String> {
    name(&arguments.take("name").ok_or("name is missing")?)
}

pub(super) fn answer(change: &DefinitionChange, defined: &Defined) -> String {
    let Defined { created, edition, defined_at, updated_at } = defined;
    let word = match change {
        DefinitionChange::Remove(_) => return format!("removed by e{edition}"),
        _ if *created => "defined",
        _ => "stands",
    };
    format!("{word} e{edition}, since {defined_at}, as it is since {updated_at}")
}

fn line(definition: &Definition) -> String {
    let mut line = match &definition.content {
        DefinitionContent::Event(event) => format!("event {} on {} {}", event.name, event.topic, event.document),
        DefinitionContent::Schema(schema) => {
            let mut line = format!("schema {}@{}", schema.name, schema.version);
            for (key, text) in [("owner", &schema.owner), ("description", &schema.description)] {
                if let Some(text) = text {
                    write!(line, " {key}={text}").expect("writing to a string");
                }
            }
            line + " " + &schema.schema
        }
        DefinitionContent::Compatibility { name, mode } => format!("schema {name} must be compatible: {mode}"),
    };
    write!(line, " e{}", definition.edition).expect("writing to a string");
    line
}

pub(super) fn list(state: &State, arguments: &mut Arguments) -> Result<Vec<String>, String> {
    let tenant = arguments.tenant()?;
    let definitions = state.definitions();
    let mut said: Vec<_> = definitions.events(&tenant).map(|definition| line(definition)).collect();
    said.extend(definitions.schemas(&tenant).map(|definition| line(definition)));
    let mut names: Vec<_> = definitions
        .schemas(&tenant)
        .filter_map(|definition| match &definition.content {
            DefinitionContent::Schema(schema) => Some(schema.name.clone()),
            DefinitionContent::Event(_) | DefinitionContent::Compatibility { .. } => None,
        })
        .collect();
    names.dedup();
    for name in names {
        let mode = definitions.compatibility(&tenant, &name);
        if mode != rollcall_registry::Compatibility::None {
            said.push(format!("schema {name} must be compatible: {mode}"));
        }
    }
    said.push(format!("{} in all", definitions.len()));
    Ok(said)
}

pub(super) fn latest(state: &State, arguments: &mut Arguments) -> Result<Vec<String>, String> {
    let (tenant, name) = (arguments.tenant()?, subject(arguments)?);
    let latest = state.definitions().latest_schema(&tenant, &name);
    Ok(vec![latest.map_or("none".to_owned(), |definition| line(definition))])
}
