"""Asks a running harmonic serve through OpenAI's own client, and fails where it is not happy.

    pip install openai
    harmonic serve --model my-model --port 8080 &
    python python/check_openai_client.py http://127.0.0.1:8080
"""

import sys

import openai


def main() -> None:
    client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key=sys.argv[2] if len(sys.argv) > 2 else "none")
    model = client.models.list().data[0].id
    assert client.models.retrieve(model).id == model

    ask = dict(model=model, prompt="Once upon a time", max_tokens=20, seed=5)
    whole = client.completions.create(**ask, logprobs=2)
    choice = whole.choices[0]
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert len(choice.logprobs.tokens) == whole.usage.completion_tokens
    assert client.completions.create(**ask).choices[0].text == choice.text

    events = list(client.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert "".join(event.choices[0].text for event in events if event.choices) == choice.text
    assert events[-1].usage.completion_tokens == whole.usage.completion_tokens

    several = client.completions.create(model=model, prompt=["a", "b"], n=2, max_tokens=5, echo=True)
    assert [one.index for one in several.choices] == [0, 1, 2, 3]
    assert several.choices[2].text.startswith("b")
    ids = client.completions.create(model=model, prompt=[[65, 66], [67]], max_tokens=0, echo=True, logprobs=1)
    assert ids.choices[0].logprobs.token_logprobs[0] is None
    assert client.completions.create(**ask, stop=choice.text[5:8]).choices[0].text == choice.text[: choice.text.index(choice.text[5:8])]

    talk = dict(model=model, messages=[{"role": "user", "content": "Hello"}], max_completion_tokens=12, seed=1)
    reply = client.chat.completions.create(**talk, logprobs=True, top_logprobs=3)
    assert reply.choices[0].message.role == "assistant"
    assert len(reply.choices[0].logprobs.content) == reply.usage.completion_tokens
    chunks = list(client.chat.completions.create(**talk, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == reply.choices[0].message.content

    for wrong, error in (
        (dict(ask, temperature=-1), openai.BadRequestError),
        (dict(ask, model="other"), openai.NotFoundError),
        (dict(ask, n=100000), openai.BadRequestError),
    ):
        try:
            client.completions.create(**wrong)
        except error as refused:
            assert refused.body["message"]
        else:
            raise AssertionError(f"{wrong} was not refused")
    print("OpenAI's client is happy")


if __name__ == "__main__":
    main()
