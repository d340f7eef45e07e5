"""maskens recipes."""

from __future__ import annotations

from typing import Annotated

import typer

from ensemble.commands.options import complete_recipe
from ensemble.commands.terminal import make_console


def list_recipes(context: typer.Context) -> None:
    """List the recipes that come with maskens and what each is for.

    Example:  maskens recipes show quick
    """
    if context.invoked_subcommand is None:
        from ensemble.recipes.recipe_file import load_recipe
        from ensemble.recipes.schema import shipped
        from ensemble.reporting.tables import recipes_table

        make_console().print(recipes_table([load_recipe(name) for name in shipped()]))


def show(
    name: Annotated[
        str, typer.Argument(metavar="NAME|FILE", help="A shipped recipe or a file.", autocompletion=complete_recipe)
    ],
    change: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key; repeatable.")
    ] = None,
) -> None:
    """Print a recipe as TOML with every value written out.

    Example:  maskens recipes show quick --set tasks.heads.epochs=5 > mine.toml
    """
    from ensemble.recipes.recipe_file import load_recipe
    from ensemble.reporting.sheets import check_augmentation

    recipe = load_recipe(name, change or [])
    check_augmentation(recipe)
    typer.echo(recipe.text, nl=False)
