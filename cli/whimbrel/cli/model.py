"""`whimbrel model`: train, import, register, verify and list the versions of a registered model."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whimbrel.cli import webhook
from whimbrel.cli.calibration_images import calibration_images
from whimbrel.cli.connection import Connection, connect
from whimbrel.cli.console import Output, add_rows, out, print_json, say, table
from whimbrel.cli.model_compile import compile_command, measured_agreement
from whimbrel.cli.model_names import selected
from whimbrel.cli.options import DEFAULT_STATE, MODELS, OutputFormat, State
from whimbrel.core import pt2
from whimbrel.core.errors import InputRefused, NotFound
from whimbrel.core.package import Package, Preset, verify
from whimbrel.core.tensors import CLASSIFICATION
from whimbrel.mlflow import registry_view
from whimbrel.mlflow.registry_view import CHALLENGER, CHAMPION

if TYPE_CHECKING:
    from whimbrel.core.model_pointer import PointerStore
    from whimbrel.mlflow.recipes.digits_networks import Kind
    from whimbrel.mlflow.register import Origin, RegisteredVersion

DIGITS = "digits"
RECIPES: Mapping[str, tuple[Kind, ...]] = {
    DIGITS: ("linear", "cnn"),
    "digits/linear": ("linear",),
    "digits/cnn": ("cnn",),
    "digits/shuffled": ("shuffled",),
}


@dataclass(frozen=True, slots=True)
class Described:
    """What the options of `import` say of a network that its file does not."""

    labels: list[str] | None
    keypoints: list[str] | None
    size: tuple[int, int] | None
    task: str
    calibration: Path | None


app = typer.Typer(no_args_is_help=True, help="Train, import, check, compile and list model versions.")
app.command(name="compile")(compile_command)
app.add_typer(webhook.app, name="webhook")

HeldOut = Annotated[
    str | None,
    typer.Option(help="evaluate on these pictures: a folder with one folder a label, or JSON lines (file or s3://...)"),
]
Parent = Annotated[str | None, typer.Option(help="version that it is to follow; default: the champion")]
Alias = Annotated[str | None, typer.Option(help="point this alias at the version")]


@app.command()
def train(
    recipes: Annotated[list[str], typer.Argument(help=f"any of {', '.join(RECIPES)}", metavar="RECIPE")],
    if_absent: Annotated[bool, typer.Option("--if-absent", help="do nothing when the model has a champion")] = False,
    state: State = DEFAULT_STATE,
) -> None:
    """Train a recipe's versions and register each with its figures. Takes seconds.

    `digits`: a linear classifier, then a small CNN, on scikit-learn's handwritten digits; `digits/shuffled` is a CNN
    whose labels were mixed up, for a rollout to refuse. The first version of all becomes champion, the last one
    challenger. The pictures that versions are compared by are put beside the model.
    """
    kinds = [kind for recipe in recipes for kind in _kinds(recipe)]
    connection = connect(state)
    champion = _champion(connection.tracking_uri(), DIGITS)
    if if_absent and champion is not None:
        return
    from whimbrel.mlflow.recipes.digits import train_digits

    with tempfile.TemporaryDirectory() as folder:
        for kind in kinds:
            trained = train_digits(kind, Path(folder) / kind)
            alias = CHAMPION if champion is None else CHALLENGER if kind == kinds[-1] else None
            version = _register(trained.package, DIGITS, connection, trained.origin(parent=champion), alias)
            champion = champion or version.version
            accuracy = trained.metrics["held_out_accuracy"]
            say(f"{_line(version)}  {kind}, accuracy {accuracy:.4f} on held-out pictures")
    try:
        _keep_known_pictures(connection)
    except NotFound as error:
        say(f"rollouts will compare versions by the latest results: {error}")


@app.command(name="import")
def import_command(
    source: Annotated[str, typer.Argument(help="torchvision:NAME or FILE.pt2")],
    name: Annotated[str, typer.Option(help="registered model to add a version to")],
    weights: Annotated[
        str, typer.Option(help="of torchvision:NAME: DEFAULT, an enum's member, FILE.safetensors, or none (random)")
    ] = "DEFAULT",
    labels: Annotated[Path | None, typer.Option(help="file with one label a line")] = None,
    keypoints: Annotated[Path | None, typer.Option(help="of a pose: file with one name of a keypoint a line")] = None,
    size: Annotated[str | None, typer.Option(help="of FILE.pt2 or a detector: HEIGHTxWIDTH of its input")] = None,
    task: Annotated[str, typer.Option(help="of FILE.pt2: classification, or an installed task")] = CLASSIFICATION,
    calibration: Annotated[
        Path | None,
        typer.Option(help="folder with at least 200 images, on which a lower precision has to agree with float32"),
    ] = None,
    held_out: HeldOut = None,
    parent: Parent = None,
    alias: Alias = None,
    state: State = DEFAULT_STATE,
) -> None:
    """Make a model package and register it as a new version. The same package again is the version it was.

    With a calibration set, how far the lower precision of this machine's hardware agrees is measured and registered.
    """
    with tempfile.TemporaryDirectory() as folder:
        named, points = (None if file is None else _lines(file) for file in (labels, keypoints))
        given = Described(named, points, _size(size), task, calibration)
        package = _package(source, Path(folder) / "package", weights, given)
        _register_evaluated(package, name, state, held_out, parent, alias)


@app.command(name="register")
def register_command(
    folder: Annotated[Path, typer.Argument(help="a model package")],
    name: Annotated[str, typer.Option(help="registered model to add a version to")],
    held_out: HeldOut = None,
    parent: Parent = None,
    alias: Alias = None,
    state: State = DEFAULT_STATE,
) -> None:
    """Register a model package as a new version. The same package again is the version it was.

    With --held-out its figures, the confusion matrix and the surest mistakes are in the version's run; give it for a
    version that is there to evaluate it again.
    """
    _register_evaluated(_verified(folder, None), name, state, held_out, parent, alias)


@app.command(name="verify")
def verify_command(
    folder: Annotated[Path, typer.Argument(help="a model package")],
    digest: Annotated[str | None, typer.Option(help="the digest that it has to have")] = None,
) -> None:
    """Check every file of a package against its model.json, and that nothing in it could run code."""
    say(f"{_verified(folder, digest).digest}  {folder}")


@app.command()
def ls(
    name: Annotated[str | None, typer.Argument(help="one registered model")] = None,
    output: OutputFormat = Output.TABLE,
    state: State = DEFAULT_STATE,
) -> None:
    """List registered models and their versions."""
    tracking_uri = connect(state).tracking_uri()
    names = [name] if name else registry_view.list_models(tracking_uri)
    versions = [version for each in names for version in registry_view.list_versions(tracking_uri, each)]
    if output is Output.JSON:
        print_json([asdict(version) for version in versions])
        return
    rows = (
        (each.name, each.version, ", ".join(each.aliases), _accuracy(each.held_out_accuracy), each.digest)
        for each in versions
    )
    out.print(add_rows(table("MODEL", "VERSION", "ALIASES", "ACCURACY", "DIGEST"), rows))


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="NAME@ALIAS or NAME/VERSION")], state: State = DEFAULT_STATE
) -> None:
    """Print one version as JSON: digest, figures, lineage, where its package lies, what is attested of it."""
    name, selector = selected(model)
    version, location = registry_view.show_version(connect(state).tracking_uri(), name, selector)
    attestations = location.attestations.model_dump(mode="json")
    print_json({**asdict(version), "uri": location.uri, "attestations": attestations})


@app.command()
def alias(
    model: Annotated[str, typer.Argument(help="NAME/VERSION or NAME@ALIAS")],
    name: Annotated[str, typer.Argument(help="alias to point at it, challenger for instance")],
    state: State = DEFAULT_STATE,
) -> None:
    """Point an alias at a version, whatever it pointed at before."""
    registered, selector = selected(model)
    tracking_uri = connect(state).tracking_uri()
    version, _ = registry_view.show_version(tracking_uri, registered, selector)
    registry_view.set_alias(tracking_uri, registered, name, version.version)
    say(f"{registered}@{name}  version {version.version}")


@app.command()
def diff(
    before: Annotated[str, typer.Argument(help="NAME@ALIAS or NAME/VERSION")],
    after: Annotated[str, typer.Argument(help="NAME@ALIAS or NAME/VERSION")],
    state: State = DEFAULT_STATE,
) -> None:
    """Show in what two versions differ: figures, lineage, digest."""
    tracking_uri = connect(state).tracking_uri()
    old, new = (registry_view.show_version(tracking_uri, *selected(each))[0] for each in (before, after))
    ours, theirs = asdict(old), asdict(new)
    changed = [field for field in ours if ours[field] != theirs[field]]
    rows = ((field.replace("_", " "), *(_cell(each[field]) for each in (ours, theirs))) for field in changed)
    out.print(add_rows(table("", before, after), rows))


@app.command()
def point(
    model: Annotated[str, typer.Argument(help="NAME@ALIAS or NAME/VERSION")],
    pointer: Annotated[
        str | None, typer.Option(help="s3:// address of the model pointer; default: s3://models/NAME/pointer.json")
    ] = None,
    state: State = DEFAULT_STATE,
) -> None:
    """Write the model pointer that predictors follow, where there is none yet. A rollout moves it from there."""
    from whimbrel.core.model_pointer import PointerStore
    from whimbrel.core.references import ObjectRef

    name, selector = selected(model)
    connection = connect(state)
    place = ObjectRef.from_uri(pointer or f"s3://{MODELS}/{name}/pointer.json")
    version = point_at(PointerStore(connection.s3(), place), connection.tracking_uri(), name, selector)
    say(f"{place.uri}  version {version}")


def point_at(store: PointerStore, tracking_uri: str, name: str, selector: str) -> str:
    """The version that a new pointer is at now. Raises Unavailable where there is a pointer already."""
    from whimbrel.core.model_pointer import Pointer, pointed

    version, location = registry_view.show_version(tracking_uri, name, selector)
    store.write(Pointer(current=pointed(location)), None)
    return version.version


def _package(source: str, folder: Path, weights: str, given: Described) -> Package:
    from whimbrel.mlflow import packages

    labels, size = given.labels, given.size
    calibrate = None if given.calibration is None else functools.partial(calibration_images, given.calibration)
    if source.startswith("torchvision:"):
        name, keypoints = source.removeprefix("torchvision:"), given.keypoints
        return packages.import_torchvision(
            name, weights, folder, labels=labels, keypoints=keypoints, size=size, calibrate=calibrate
        )
    if source.endswith(".pt2"):
        if labels is None or size is None:
            raise InputRefused(f"expected --labels and --size for {source}, seen only part of them")
        preset = Preset(height=size[0], width=size[1])
        return packages.import_exported(
            Path(source), folder, labels=labels, preset=preset, task=given.task, calibrate=calibrate
        )
    raise InputRefused(
        f"expected torchvision:NAME or FILE.pt2, seen {source!r}; a package is registered by 'whimbrel model register'"
    )


def _verified(folder: Path, digest: str | None) -> Package:
    package = verify(folder, digest)
    if package.weights.suffix == ".pt2":
        pt2.check(package.weights)
    return package


def _register_evaluated(
    package: Package, name: str, state: Path, held_out: str | None, parent: str | None, alias: str | None
) -> None:
    from whimbrel.cli.held_out import evaluate, labelled_pictures
    from whimbrel.mlflow.register import Origin

    connection = connect(state)
    evaluation = None if held_out is None else evaluate(package, labelled_pictures(held_out, connection))
    follows = parent or _champion(connection.tracking_uri(), name)
    version = _register(package, name, connection, Origin(evaluation, parent=follows), alias)
    said = (
        "" if evaluation is None else f"  accuracy {evaluation.accuracy:.4f} on {evaluation.images} held-out pictures"
    )
    say(f"{_line(version)}{said}")


def _register(
    package: Package, name: str, connection: Connection, origin: Origin, alias: str | None
) -> RegisteredVersion:
    from whimbrel.mlflow.register import register

    return register(
        package,
        name,
        connection.tracking_uri(),
        connection.s3(),
        origin=origin,
        measure=measured_agreement,
        alias=alias,
    )


def _champion(tracking_uri: str, name: str) -> str | None:
    try:
        return registry_view.list_aliases(tracking_uri, name).get(CHAMPION)
    except NotFound:
        return None


def _kinds(recipe: str) -> tuple[Kind, ...]:
    if recipe not in RECIPES:
        raise InputRefused(f"expected a recipe, one of {', '.join(RECIPES)}, seen {recipe!r}")
    return RECIPES[recipe]


def _keep_known_pictures(connection: Connection) -> None:
    """What rollouts of digits ask both versions about, with its truth."""
    from whimbrel.cli.put import put_object
    from whimbrel.mlflow.recipes.digits import validation
    from whimbrel.mlflow.rollout.known_objects import NAME, KnownObject, write_known_objects

    client, known = connection.s3(), []
    for picture in validation():
        key = f"{DIGITS}/known/{picture.index:04d}.png"
        put_object(client, MODELS, key, picture.png)
        known.append(KnownObject(uri=f"s3://{MODELS}/{key}", label=picture.name))
    write_known_objects(client, f"s3://{MODELS}/{DIGITS}/{NAME}", known)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise InputRefused(f"expected a size as HEIGHTxWIDTH, 224x224 for instance, seen {text!r}")
    return int(height), int(width)


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise InputRefused(f"expected labels, one a line, in {path}, seen no such file")
    return [line.strip() for line in path.read_text().splitlines() if line.strip()]


def _line(version: RegisteredVersion) -> str:
    return f"{version.name} version {version.version}  {version.digest}"


def _cell(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple) else "" if value is None else str(value)


def _accuracy(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
