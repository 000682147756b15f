"""The studies that can be run by name: the paper's figures, and further ones."""

from collections.abc import Mapping

from flossing_lab.studies.baselines import study as baselines
from flossing_lab.studies.horizon import study as horizon
from flossing_lab.studies.paper import (
    fig1_controlled_exponents,
    fig2_condition_number,
    fig3_before_training,
    fig4_during_training,
    fig5_number_of_exponents,
    fig6_architectures,
)
from flossing_lab.studies.schedule import study as schedule
from flossing_lab.studies.study import Study

FIGURES: Mapping[str, Study] = {
    each.name: each
    for each in (
        fig1_controlled_exponents.STUDY,
        fig2_condition_number.STUDY,
        fig3_before_training.STUDY,
        fig4_during_training.STUDY,
        fig5_number_of_exponents.STUDY,
        fig6_architectures.STUDY,
    )
}

FURTHER: Mapping[str, Study] = {
    each.name: each for each in (horizon.STUDY, schedule.STUDY, baselines.STUDY)
}
"""Studies that the paper does not have."""

STUDIES: Mapping[str, Study] = {**FIGURES, **FURTHER}
