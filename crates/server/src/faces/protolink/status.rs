//! The status page: who is registered, for people with a browser.

use std::fmt::Write;

use rollcall_registry::registration::CapabilityView;
use rollcall_registry::{Revision, TenantId, View};

use super::shown::Shown;
use crate::limits::STATUS_AGENTS_MAX;

pub(super) const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;\
    color-scheme:light dark}table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;\
    padding:.4rem .8rem .4rem 0;border-bottom:1px solid #8884}td{overflow-wrap:anywhere}";

pub(super) fn page(tenant: &TenantId, found: &[View], revision: Revision) -> String {
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Registry</title><style>{STYLE}</style></head>\n\
         <body><h1>Registry</h1>\n<p>{} agents · transport HTTP · tenant {} · revision {revision}</p>\n",
        found.len(),
        Escaped(tenant.as_str()),
    );
    html.push_str(
        "<table><thead><tr><th>Name<th>Description<th>URL<th>Version<th>Status<th>Tags<th>Skills</thead><tbody>\n",
    );
    for view in found.iter().take(STATUS_AGENTS_MAX) {
        row(view, &mut html).expect("writing to a string does not fail");
    }
    html.push_str("</tbody></table>\n");
    if found.len() > STATUS_AGENTS_MAX {
        let more = found.len() - STATUS_AGENTS_MAX;
        writeln!(html, "<p>and {more} more</p>").expect("writing to a string does not fail");
    }
    html.push_str("</body></html>\n");
    html
}

fn row(view: &View, html: &mut String) -> std::fmt::Result {
    let shown = Shown::of(&view.instance);
    let registration = shown.registration;
    let url = shown.url();
    write!(html, "<tr><td>{}<td>{}<td>", Escaped(registration.name), Escaped(&shown.description()))?;
    // A link is followed by whoever clicks on it: only to where a browser may go.
    if url.starts_with("http://") || url.starts_with("https://") {
        write!(html, "<a href=\"{0}\" rel=\"noreferrer\">{0}</a>", Escaped(&url))?;
    } else {
        write!(html, "{}", Escaped(&url))?;
    }
    write!(html, "<td>{}<td>{}<td>", Escaped(shown.version()), view.instance.status())?;
    list(registration.tags, html)?;
    html.push_str("<td>");
    list(registration.capabilities.map(|CapabilityView { name, .. }| name), html)?;
    html.push('\n');
    Ok(())
}

fn list<'a>(texts: impl Iterator<Item = &'a str>, html: &mut String) -> std::fmt::Result {
    for (n, text) in texts.enumerate() {
        write!(html, "{}{}", if n > 0 { ", " } else { "" }, Escaped(text))?;
    }
    Ok(())
}

/// Text that is no markup, in an element or between double quotes.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#x27;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_agents_say_is_no_markup() {
        assert_eq!(
            Escaped("<b a=\"1\" c='2'>&</b>").to_string(),
            "&lt;b a=&quot;1&quot; c=&#x27;2&#x27;&gt;&amp;&lt;/b&gt;"
        );
    }
}
