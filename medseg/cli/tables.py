"""Commands that print what medseg knows: networks, the schema of the configuration, its version."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def models(name: Annotated[str | None, typer.Argument(help="a row of the table: its options, too")] = None) -> None:
    """The table of networks: what `models.<name>.network` and its `options` can be."""
    from medseg.errors import ConfigError
    from medseg.networks import NETWORKS

    if name is None:
        for row, network in NETWORKS.items():
            typer.echo(f"{row:16}{'/'.join(f'{d}-D' for d in network.dims):9}{network.paper}")
        return
    if name not in NETWORKS:
        raise ConfigError(f"no network '{name}'; there are: {', '.join(NETWORKS)}")
    typer.echo(f"{name}: {NETWORKS[name].paper}")
    for option, field in NETWORKS[name].options.model_fields.items():
        typer.echo(f"  {option} (default {json.dumps(field.default)}): {field.description}")


def schema() -> None:
    """Print the JSON schema of the configuration."""
    from medseg.config import config_schema

    print(json.dumps(config_schema(), indent=2))


def version() -> None:
    """Print the version."""
    from medseg import __version__

    print(__version__)
