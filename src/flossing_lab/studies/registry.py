"""All studies by name: the paper's figures, and further comparisons."""

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
from flossing_lab.studies.step_size import study as step_size
from flossing_lab.studies.study import Study
from flossing_lab.studies.windows import study as windows

FIGURES: Mapping[str, Study] = {
    each.STUDY.name: each.STUDY
    for each in (
        fig1_controlled_exponents,
        fig2_condition_number,
        fig3_before_training,
        fig4_during_training,
        fig5_number_of_exponents,
        fig6_architectures,
    )
}

STUDIES: Mapping[str, Study] = {
    **FIGURES,
    **{
        each.name: each
        for each in (
            horizon.STUDY,
            schedule.STUDY,
            windows.STUDY,
            baselines.STUDY,
            step_size.STUDY,
        )
    },
}
