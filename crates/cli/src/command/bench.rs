//! `rollcall bench`.

use rollcall_bench::{Access, Report, Work};

use super::refuse_ca;
use crate::args::Global;
use crate::failure::{ExitCode, Failure};
use crate::output;

/// The report is printed whatever it says; errors in it are told by the exit code.
pub(super) async fn run(global: &Global, work: Work) -> Result<u8, Failure> {
    refuse_ca(global)?;
    let access = Access {
        endpoints: global.endpoints.clone(),
        token: global.token.clone(),
        tenant: global.tenant.clone(),
        timeout: global.timeout,
    };
    let finished = work.run(access).await.map_err(|source| Failure::Bench { source })?;
    output::show(global.output, &finished.report, Report::table)?;
    let failed = finished.report.errors > 0 && !finished.tolerate_errors;
    Ok(if failed { ExitCode::Error as u8 } else { 0 })
}
