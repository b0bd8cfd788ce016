//! The API as OpenAPI, made from its routes and held against `docs/openapi.json`: a changed route is a visible change there.
//!
//! `DOZEN_WRITE_SCHEMAS=1 cargo test -p dozen schemas` writes it.

use super::wire;
use std::path::Path;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, ObjectBuilder, OpenApi, Ref, RefOr, Required, ResponseBuilder, Type};
use utoipa::{Modify, OpenApi as _};

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "dozen", description = "The API of `dozen server`, reached at its host by way of its router.", version = "1", license(name = "MIT OR Apache-2.0")),
    servers((url = "http://dozen.localhost:8000")),
    components(schemas(wire::Problem)),
    modifiers(&Common),
    paths(
        super::info,
        super::logs,
        super::config,
        super::configure,
        super::stop,
        super::hand_over,
        super::builds::list,
        super::builds::cancel,
        super::slugs::list,
        super::slugs::export,
        super::slugs::collect_now,
        super::tests::run,
        super::tests::gates,
        super::tests::require,
        super::certs::list,
        super::certs::add,
        super::certs::automate,
        super::certs::remove,
        super::delivery::build,
        super::delivery::promote,
        super::front::domains,
        super::front::change_domains,
        super::front::manners,
        super::front::treat,
        super::split::show,
        super::split::change,
        super::split::status,
        super::split::promote,
        super::split::abort,
        super::processes::list,
        super::processes::scale,
        super::processes::restart,
        super::processes::stop,
        super::processes::start,
        super::releases::list,
        super::releases::describe,
        super::releases::diff,
        super::releases::rollback,
        super::runs::list,
        super::runs::run,
        super::runs::stop,
        super::people::users,
        super::people::add,
        super::people::remove,
        super::people::grants,
        super::people::grant,
        super::people::ungrant,
        super::people::tokens,
        super::people::create_token,
        super::people::revoke,
        super::people::events,
        super::keys::list,
        super::keys::add,
        super::keys::remove,
        super::ssh::session,
        super::upgrade::give_way,
        super::platform::account,
        super::platform::apps,
        super::platform::create_app,
        super::platform::destroy_app,
        super::platform::deploys_of,
        super::platform::create_deploy,
        super::platform::destroy_deploy
    )
)]
struct Spec;

/// What all operations have in common: the names in their path, a token, and what they say when they fail.
struct Common;

impl Modify for Common {
    fn modify(&self, spec: &mut OpenApi) {
        if let Some(components) = &mut spec.components {
            let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("A token, as `dozen login` takes it.")).build();
            components.add_security_scheme("token", SecurityScheme::Http(bearer));
        }
        spec.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new())]);
        for (path, item) in &mut spec.paths.paths {
            for operation in operations(item) {
                let named = path.split(['{', '}']).skip(1).step_by(2);
                let parameters = operation.parameters.get_or_insert_default();
                parameters.splice(0..0, named.map(in_path));
                let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
                let failed = ResponseBuilder::new().description("Why not, and what to do").content("application/json", problem).build();
                for status in ["4XX", "5XX"] {
                    operation.responses.responses.insert(status.to_owned(), RefOr::T(failed.clone()));
                }
                // Names of functions mean nothing to others, and of some there are several.
                operation.operation_id = None;
            }
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch].into_iter().flatten()
}

fn in_path(name: &str) -> RefOr<Parameter> {
    let kind = if name == "id" { Type::Integer } else { Type::String };
    let schema = ObjectBuilder::new().schema_type(kind).build();
    RefOr::T(ParameterBuilder::new().name(name).parameter_in(ParameterIn::Path).required(Required::True).schema(Some(schema)).build())
}

#[test]
fn the_specification_that_is_checked_in_is_of_these_routes() {
    let file = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json"));
    let text = format!("{}\n", Spec::openapi().to_pretty_json().expect("a specification is JSON"));
    if std::env::var_os("DOZEN_WRITE_SCHEMAS").is_some() {
        std::fs::write(file, &text).expect("written");
    }
    assert_eq!(std::fs::read_to_string(file).unwrap_or_default(), text, "{} differs; see the head of this file", file.display());
}
