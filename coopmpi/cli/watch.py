"""coopmpi watch: the live view of a run that goes on elsewhere."""

import click


@click.command()
@click.argument("path", metavar="RUN.h5")
@click.option("--once", is_flag=True, help="Look once, print what is there, and stop.")
def command(path, once):
    """Show how far a run is that goes on elsewhere, until it ends; then, and of a finished run at once, its closing screen.

    Ctrl-C ends the view, not the run.

    \b
    coopmpi watch run.h5
    coopmpi watch run.h5 --once
    """
    from coopmpi.drivers.mpi import launch
    from coopmpi.report import console, view, watch

    width, watcher = launch.width(), console.watcher(launch.columns())
    try:
        for progress, quiet in watch.looks(path):
            if once:
                click.echo("\n".join(view.frame(progress, width, quiet)))
                return
            watcher.look(progress, quiet)
    except KeyboardInterrupt:
        return
    finally:
        watcher.close("")
    if watch.is_over(path):
        click.echo(watch.last_screen(path, width), nl=False)
    else:
        click.echo(f"coopmpi: {path}: nothing was written for {watch.GONE:g} s and no process here holds the file: the run was cut off; "
                   f"coopmpi resume {path} goes on with it")
