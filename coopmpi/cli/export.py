"""coopmpi export: the trained model as a file for other programs."""

import click

from coopmpi.cli import job


@click.command()
@click.argument("result", metavar="RUN.h5")
@click.option("-o", "--output", metavar="FILE", required=True, help="model.safetensors, model.pt (a state_dict) or model.npz.")
@click.option("--worker", type=int, help="That worker's model; default: the mean of all.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@click.option("--allow-code", is_flag=True, help="Import the modules that a result of another user names.")
def command(result, output, worker, overwrite, allow_code):
    """Write the model of a finished run: of a PyTorch module all that its state_dict has.

    \b
    coopmpi export run.h5 -o model.safetensors
    coopmpi export run.h5 -o model.npz --worker 2
    """
    from coopmpi.record.models import final_model
    from coopmpi.run.export import export, require_suffix

    require_suffix(output)
    job.check_output(output, overwrite)
    job.verify(result)
    model = final_model(result, worker)
    job.require_own_code(result, model.tables, allow_code)
    count = export(model, output)
    click.echo(f"{output}: {count} tensors of {'the mean model' if worker is None else f'worker {worker}'}")
