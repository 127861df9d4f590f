use serde::Serialize;
#[derive(Default)]
pub struct Options {
    pub progress_bar: bool,
    pub list_limit: usize,
    pub temp_dir: Option<std::path::PathBuf>,
    pub strict: bool,
    pub source: bool,
    pub lake: bool,
}
#[derive(Serialize)]
pub struct Report {
    pub ok: bool,
}
impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.ok)
    }
}
#[derive(Debug, thiserror::Error)]
#[error("no")]
pub struct VerifyError;
pub async fn run(_: &crate::config::model::Pipeline, _: Options) -> Result<Report, VerifyError> {
    Err(VerifyError)
}
