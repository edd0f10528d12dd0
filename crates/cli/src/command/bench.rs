//! `rollcall bench`.

use rollcall_bench::{Access, Report, Work};

use crate::args::Global;
use crate::failure::{ExitCode, Failure};
use crate::output;

/// The report is printed whatever it says; errors in it are told by the exit code.
pub(super) async fn run(global: &Global, work: Work) -> Result<u8, Failure> {
    if global.client_cert.is_some() {
        return Err(Failure::Usage {
            what: "--client-cert: the load generator shows no certificate; leave it out".to_owned(),
        });
    }
    let ca = global.ca.as_ref().map(super::read_file).transpose()?;
    let access = Access {
        endpoints: global.endpoints.clone(),
        ca,
        token: global.token.clone(),
        tenant: global.tenant.clone(),
        timeout: global.timeout,
    };
    let finished = work.run(access).await.map_err(|source| Failure::Bench { source })?;
    output::show(global.output, &finished.report, Report::table)?;
    let failed = finished.report.errors > 0 && !finished.tolerate_errors;
    Ok(if failed { ExitCode::Error as u8 } else { 0 })
}
