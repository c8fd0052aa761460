"""coopmpi export: a run for other programs: the trained model, or what was recorded."""

import click

from coopmpi.cli import job
from coopmpi.errors import UserError


@click.command()
@click.argument("result", metavar="RUN.h5")
@click.option("-o", "--output", metavar="FILE", help="The model: model.safetensors, model.pt (a state_dict) or model.npz.")
@click.option("--csv", metavar="DIR", help="steps.csv, workers.csv, evaluations.csv, ... in a folder.")
@click.option("--jsonl", metavar="FILE", help="A line of JSON per step, evaluation and event.")
@click.option("--tensorboard", metavar="DIR", help="An event file in a folder, which `tensorboard --logdir DIR` shows.")
@click.option("--worker", type=int, help="With -o: that worker's model; default: the mean of all.")
@click.option("--overwrite", is_flag=True, help="Replace what an earlier export has written there.")
@click.option("--allow-code", is_flag=True, help="With -o: import the modules that a result of another user names.")
def command(result, output, csv, jsonl, tensorboard, worker, overwrite, allow_code):
    """Write the model of a finished run, or the series of a run in whatever state, for other programs.

    Of a PyTorch module the model is all that its state_dict has.

    \b
    coopmpi export run.h5 -o model.safetensors
    coopmpi export run.h5 -o model.npz --worker 2
    coopmpi export run.h5 --csv tables
    coopmpi export run.h5 --tensorboard logs/run
    """
    given = {name: value for name, value in {"-o": output, "--csv": csv, "--jsonl": jsonl, "--tensorboard": tensorboard}.items() if value}
    if len(given) != 1:
        raise UserError(f"give one of -o, --csv, --jsonl, --tensorboard; given {', '.join(given) or 'none'}")
    if worker is not None and not output:
        raise UserError("--worker chooses a model: it goes with -o")
    click.echo(_model(result, output, worker, overwrite, allow_code) if output else _series(result, csv, jsonl, tensorboard, overwrite))


def _model(result, output, worker, overwrite, allow_code):
    from coopmpi.record.models import final_model
    from coopmpi.record.writer import check_output
    from coopmpi.run.export import export, require_suffix

    require_suffix(output)
    check_output(output, overwrite)
    job.verify(result)
    model = final_model(result, worker)
    job.require_own_code(result, model.tables, allow_code)
    count = export(model, output)
    return f"{output}: {count} tensors of {'the mean model' if worker is None else f'worker {worker}'}"


def _series(result, csv, jsonl, tensorboard, overwrite):
    from coopmpi.record.writer import check_output
    from coopmpi.report import export

    job.verify(result)
    if csv:
        rows = export.tables(result, csv, overwrite)
        return f"{csv}: {', '.join(f'{name}.csv ({count} rows)' for name, count in rows.items())}"
    if jsonl:
        check_output(jsonl, overwrite)
        export.json_lines(result, jsonl)
        return jsonl
    export.tensorboard(result, tensorboard, overwrite)
    return f"{tensorboard}: tensorboard --logdir {tensorboard} shows it"
