"""Small SBML models as text, and their solutions by SciPy."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from kinbayes.formats.sbml.reader import SBMLError, read_sbml_text
from kinbayes.model.codegen import program
from kinbayes.model.expressions import OPERATIONS, evaluate

TIMES = np.linspace(0.0, 3.0, 7)


def math_ml(content):
    return f'<math xmlns="http://www.w3.org/1998/Math/MathML">{content}</math>'


def apply(operator, *arguments):
    return f"<apply><{operator}/>{''.join(arguments)}</apply>"


def call(function, *arguments):
    return f"<apply>{ci(function)}{''.join(arguments)}</apply>"


def ci(name):
    return f"<ci>{name}</ci>"


def cn(value):
    return f"<cn>{value}</cn>"


TIME = '<csymbol encoding="text" definitionURL="http://www.sbml.org/sbml/symbols/time">t</csymbol>'
AVOGADRO = '<csymbol encoding="text" definitionURL="http://www.sbml.org/sbml/symbols/avogadro">N</csymbol>'
DELAY = '<csymbol encoding="text" definitionURL="http://www.sbml.org/sbml/symbols/delay">delay</csymbol>'
RATE_OF = '<csymbol encoding="text" definitionURL="http://www.sbml.org/sbml/symbols/rateOf">rateOf</csymbol>'
BOX = '<compartment id="box" spatialDimensions="3" size="2" constant="false"/>'

KEEPS = 'useValuesFromTriggerTime="true"'  # the attributes that Level 3 wants an event to have
BEFORE = 'initialValue="true" persistent="true"'


def species(name, start='initialConcentration="3"', *, amounts="false", boundary="false", constant="false"):
    return (
        f'<species id="{name}" compartment="box" {start} hasOnlySubstanceUnits="{amounts}" '
        f'boundaryCondition="{boundary}" constant="{constant}"/>'
    )


def parameter(name, value="0.5"):
    return f'<parameter id="{name}" value="{value}" constant="false"/>'


def rule(kind, variable, content):
    return f'<{kind}Rule variable="{variable}">{math_ml(content)}</{kind}Rule>'


def assignment(variable, content):
    return f'<initialAssignment symbol="{variable}">{math_ml(content)}</initialAssignment>'


def function(name, arguments, content):
    bound = "".join(f"<bvar>{ci(a)}</bvar>" for a in arguments)
    body = math_ml(f"<lambda>{bound}{content}</lambda>")
    return f'<functionDefinition id="{name}">{body}</functionDefinition>'


def reaction(name, law, reactants=(), products=(), local=(), attributes=""):
    def side(kind, references):
        return f"<listOf{kind}>{''.join(references)}</listOf{kind}>" if references else ""

    inner = "".join(f'<localParameter id="{p}" value="{v}"/>' for p, v in local)
    inner = f"<listOfLocalParameters>{inner}</listOfLocalParameters>" if local else ""
    kinetics = f"<kineticLaw>{math_ml(law)}{inner}</kineticLaw>" if law else ""
    head = f'<reaction id="{name}" reversible="false" {attributes}>'
    return f"{head}{side('Reactants', reactants)}{side('Products', products)}{kinetics}</reaction>"


def reference(name, stoichiometry="1", extra=""):
    return f'<speciesReference species="{name}" stoichiometry="{stoichiometry}" constant="true" {extra}/>'


def document(*, level="3", version="2", model="", root="", **lists):
    order = "FunctionDefinitions Compartments Species Parameters InitialAssignments Rules Constraints Reactions"
    given = [name for name in (*order.split(), "Events") if name in lists]
    parts = [f"<listOf{name}>\n{lists[name]}\n</listOf{name}>\n" for name in given]
    namespace = f"level{level}/version{version}" + ("/core" if level == "3" else "")
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<sbml xmlns="http://www.sbml.org/sbml/{namespace}" level="{level}" version="{version}" {root}>\n'
        f'<model id="m" {model}>\n{"".join(parts)}</model>\n</sbml>\n'
    )


def event(name, trigger, assignments, *, delay=None, priority=None, attributes=KEEPS, of_trigger=BEFORE):
    """An event of Level 3; assignments: (variable, formula)."""

    def part(kind, content, settings=""):
        return "" if content is None else f"<{kind} {settings}>{math_ml(content)}</{kind}>"

    inside = "".join(f'<eventAssignment variable="{v}">{math_ml(c)}</eventAssignment>' for v, c in assignments)
    head = f'<event id="{name}" {attributes}>' if name else f"<event {attributes}>"
    parts = part("trigger", trigger, of_trigger) + part("priority", priority) + part("delay", delay)
    return f"{head}{parts}<listOfEventAssignments>{inside}</listOfEventAssignments></event>"


def read(**parts):
    """The model of a text."""
    return read_sbml_text(document(**parts), "model.xml")


def refusal(**parts):
    """The error that a text gives: its class and its message."""
    with pytest.raises(SBMLError) as error:
        read(**parts)
    return error.type, str(error.value)


def numeric(expressions, names):
    """A function from an array of values by name to an array of results, interpreted with NumPy."""
    code = program(list(expressions))
    position = {name: k for k, name in enumerate(names)}

    def run(values):
        registers = []
        for op, args, value in code.instructions:
            if op == "const":
                registers.append(np.float64(value))
            elif op == "symbol":
                registers.append(values[position[value]])
            else:
                registers.append(OPERATIONS[op].numpy(*(registers[a] for a in args)))
        return [registers[k] for k in code.outputs]

    return run


def solve(model, times=TIMES, given=None, rtol=1e-9, atol=1e-11):
    """Every quantity of the model by name, over time, integrated with SciPy."""
    given = given or {}
    names = (*model.states, *model.parameters, "time")
    initial = evaluate(list(model.initial_values(given).values()), {**given, "time": times[0]})
    start = dict(zip(model.initial, initial, strict=True))
    parameters = [start[name] for name in model.parameters]
    slopes, rest = numeric(model.derivatives.values(), names), numeric(model.expressions.values(), names)
    states = np.empty((0, times.size))
    if model.states:
        run = solve_ivp(
            lambda t, y: slopes([*y, *parameters, t]),
            times[[0, -1]],
            [start[name] for name in model.states],
            method="RK45",
            t_eval=times,
            rtol=rtol,
            atol=atol,
            max_step=2 * np.diff(times).max(),  # finds the steps of piecewise formulas
        )
        assert run.success, run.message
        states = run.y
    known = [*states, *parameters, times]
    values = zip((*names, *model.expressions), (*known, *rest(known)), strict=True)
    return {name: np.broadcast_to(value, times.shape) for name, value in values}


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-8)
