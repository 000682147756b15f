"""The studies that can be run by name: the paper's figures, and further ones."""

from collections.abc import Mapping

from flossing.experiments.figures import (
    architectures,
    before_training,
    condition_number,
    controlled_exponents,
    during_training,
    number_of_exponents,
    reach,
    rivals,
    schedule,
)
from flossing.experiments.figures.study import Study

FIGURES: Mapping[str, Study] = {
    each.name: each
    for each in (
        controlled_exponents.STUDY,
        condition_number.STUDY,
        before_training.STUDY,
        during_training.STUDY,
        number_of_exponents.STUDY,
        architectures.STUDY,
    )
}

FURTHER: Mapping[str, Study] = {
    each.name: each for each in (reach.STUDY, schedule.STUDY, rivals.STUDY)
}
"""Studies that the paper does not have."""

STUDIES: Mapping[str, Study] = {**FIGURES, **FURTHER}
